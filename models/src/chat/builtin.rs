//! Templates of models that carry none.

/// Name and source. The special tokens of `llama2` and `atom-chat` are `bos_token` and `eos_token`.
pub(super) const TEMPLATES: &[(&str, &str)] = &[
    (
        "chatml",
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    (
        "llama2",
        "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set system = messages[0]['content'] %}\
         {% else %}{% set turns = messages %}{% set system = false %}{% endif %}\
         {% for message in turns %}\
         {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
         {% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}\
         {% else %}{% set content = message['content'] %}{% endif %}\
         {% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
         {% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}\
         {% endfor %}",
    ),
    ("plain", "{% for message in messages %}{{ message['content'] }}{% endfor %}"),
    // JittorLLMs' prompt for Atom-7B, the model before chat tuning.
    (
        "atom",
        "{{ '以下内容是用户和Atom7B聊天机器人之间的对话。\\n' }}\
         {% for message in messages %}\
         {% if message['role'] == 'user' %}{{ '用户：' + message['content'] + '\\n' }}\
         {% elif message['role'] == 'assistant' %}{{ 'Atom7B聊天机器人：' + message['content'] + '\\n' }}\
         {% else %}{{ message['content'] + '\\n' }}{% endif %}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ 'Atom7B聊天机器人：' }}{% endif %}",
    ),
    // Atom-7B-Chat's own format.
    (
        "atom-chat",
        "{% for message in messages %}\
         {% if message['role'] == 'user' %}{{ bos_token + 'Human: ' + message['content'] + '\\n' + eos_token }}\
         {% elif message['role'] == 'assistant' %}{{ bos_token + 'Assistant: ' + message['content'] + '\\n' + eos_token }}\
         {% else %}{{ bos_token + 'System: ' + message['content'] + '\\n' + eos_token }}{% endif %}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ bos_token + 'Assistant: ' }}{% endif %}",
    ),
    (
        "belle",
        "{% for message in messages %}\
         {% if message['role'] == 'user' %}{{ 'Human: \\n' + message['content'] + '\\n\\n' }}\
         {% elif message['role'] == 'assistant' %}{{ 'Assistant: \\n' + message['content'] + '\\n\\n' }}\
         {% else %}{{ message['content'] + '\\n\\n' }}{% endif %}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ 'Assistant: \\n' }}{% endif %}",
    ),
];

pub(super) fn source(name: &str) -> Option<&'static str> {
    TEMPLATES.iter().find(|(known, _)| *known == name).map(|(_, source)| *source)
}

pub(super) fn names() -> String {
    let names: Vec<&str> = TEMPLATES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}
