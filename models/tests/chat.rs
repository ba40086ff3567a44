//! Chat templates against transformers' output, their limits, and special tokens in user text.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use jtllm_fuzz::{Random, for_seconds};
use jtllm_models::chat::{ChatError, ChatTemplate, Message};
use jtllm_models::tokenizer::{Special, Tokenizer};
use serde_json::{Map, Value};
use support::{
    atom_tiny, chatglm, config, demo, demo_tokenizer, fixture, ice_text, ids, json, llama2, qwen2_tiny,
};

fn messages(value: &Value) -> Vec<Message> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|turn| Message::new(text(&turn["role"]), text(&turn["content"])))
        .collect()
}

fn user(content: &str) -> Vec<Message> {
    vec![Message::new("user", content)]
}

fn render(source: &str) -> Result<String, ChatError> {
    ChatTemplate::new(source, None, None)?.render(&user("hi"), true, &Map::new())
}

#[test]
fn t01_templates_render_as_transformers_does() {
    let golden = json(&fixture("chat-templates/golden.json"));
    let (mut cases, mut refused) = (0, 0);
    for (name, entry) in golden["templates"].as_object().unwrap() {
        let source = entry["chat_template"].as_str().unwrap();
        let template =
            ChatTemplate::new(source, entry["bos_token"].as_str(), entry["eos_token"].as_str()).unwrap();
        for case in entry["cases"].as_array().unwrap() {
            let extra = case.get("kwargs").map_or_else(Map::new, |extra| extra.as_object().unwrap().clone());
            let prompt = case["add_generation_prompt"].as_bool().unwrap();
            let found = template.render(&messages(&case["messages"]), prompt, &extra);
            cases += 1;
            match case.get("error") {
                Some(message) => {
                    refused += 1;
                    let message = message.as_str().unwrap().to_owned();
                    assert_eq!(found, Err(ChatError::Raised { message }), "{name}: {}", case["conversation"]);
                }
                None => assert_eq!(
                    found.as_deref(),
                    Ok(case["rendered"].as_str().unwrap()),
                    "{name}: {}",
                    case["conversation"]
                ),
            }
        }
    }
    assert_eq!((cases, refused), (195, 10));
}

#[test]
fn t01_demo_chats_become_the_golden_ids() {
    let tokenizer = demo_tokenizer();
    let source = String::from_utf8(demo("chat_template.jinja")).unwrap();
    let template = ChatTemplate::new(&source, None, Some("<|im_end|>")).unwrap();
    for chat in json(&demo("golden.json"))["chat"].as_array().unwrap() {
        let turns = messages(&chat["messages"]);
        assert_eq!(template.render(&turns, true, &Map::new()).unwrap(), chat["rendered"].as_str().unwrap());
        assert_eq!(template.encode(&tokenizer, &turns, true, &Map::new()).unwrap(), ids(&chat["input_ids"]));
    }
}

#[test]
fn t01_qwen2_chats_become_the_golden_ids() {
    let tokenizer = qwen2_tiny();
    let settings = config(&fixture("qwen2-gqa-untied-tiny/tokenizer_config.json"));
    let template = ChatTemplate::new(&settings.chat_templates[0].1, None, Some("<|im_end|>")).unwrap();
    for chat in json(&fixture("qwen2-gqa-untied-tiny/golden.json"))["chat_generate"].as_array().unwrap() {
        let turns = messages(&chat["messages"]);
        assert_eq!(template.render(&turns, true, &Map::new()).unwrap(), chat["rendered"].as_str().unwrap());
        assert_eq!(template.encode(&tokenizer, &turns, true, &Map::new()).unwrap(), ids(&chat["input_ids"]));
        assert_eq!(tokenizer.decode(&ids(&chat["tokens"]), true), chat["text"].as_str().unwrap());
    }
}

#[test]
fn t01_builtin_templates_say_what_their_models_were_trained_on() {
    let turns = [Message::new("user", "你好"), Message::new("assistant", "好"), Message::new("user", "再见")];
    let named = |name| {
        let template = ChatTemplate::named(name, Some("<s>"), Some("</s>")).unwrap();
        template.render(&turns, true, &Map::new()).unwrap()
    };
    assert_eq!(
        named("chatml"),
        "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n好<|im_end|>\n<|im_start|>user\n再见<|im_end|>\n\
         <|im_start|>assistant\n"
    );
    assert_eq!(named("llama2"), "<s>[INST] 你好 [/INST] 好 </s><s>[INST] 再见 [/INST]");
    assert_eq!(named("plain"), "你好好再见");
    assert_eq!(
        named("atom"),
        "<s>以下内容是用户和Atom7B聊天机器人之间的对话。\n用户：你好\nAtom7B聊天机器人：好\n用户：再见\nAtom7B聊天机器人："
    );
    assert_eq!(
        named("atom-chat"),
        "<s>Human: 你好\n</s><s>Assistant: 好\n</s><s>Human: 再见\n</s><s>Assistant: "
    );
    assert_eq!(named("belle"), "Human: \n你好\n\nAssistant: \n好\n\nHuman: \n再见\n\nAssistant: \n");
    assert_eq!(named("pangu"), "问：你好？答：好问：再见？答：");
    assert_eq!(
        named("llama"),
        "<s>A dialog, where User interacts with AI. AI is helpful, kind, obedient, honest, and knows its own limits. \
         AI replies the User in one line.\nUser: Hello, AI.\nAI: Hello! How can I assist you today?\n\
         User: 你好\nAI: 好\nUser: 再见\n"
    );
    assert_eq!(
        named("qwen2"),
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n\
         <|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n好<|im_end|>\n\
         <|im_start|>user\n再见<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        named("rwkv"),
        "\nThe following is a verbose and detailed conversation between an AI assistant called Bot, and a human user \
         called User. Bot is intelligent, knowledgeable, wise and polite.\n\nUser: wat is lhc\n\nBot: LHC is a \
         high-energy particle collider, built by CERN, and completed in 2008. They used it to confirm the existence \
         of the Higgs boson in 2012.\n\nUser: 企鹅会飞吗\n\nBot: 企鹅是不会飞的。它们的翅膀主要用于游泳和平衡，\
         而不是飞行。\n\nUser: 你好\n\nBot: 好\n\nUser: 再见\n\nBot:"
    );
    assert_eq!(named("rwkv-world"), "User: 你好\n\nAssistant: 好\n\nUser: 再见\n\nAssistant:");
    let moss = named("moss");
    assert!(moss.starts_with("You are an AI assistant whose name is MOSS.\n- MOSS is a conversational"));
    assert!(moss.contains(
        "like \"in this context a human might say...\", \"some people might think...\", etc.\n- Its"
    ));
    assert!(moss.contains("accepts the user's suggestion"));
    assert!(moss.ends_with(
        "generated by MOSS.\nCapabilities and tools that MOSS can possess.\n\
         <|Human|>: 你好<eoh>\n<|MOSS|>: 好<eom>\n<|Human|>: 再见<eoh>\n<|MOSS|>:"
    ));
    assert_eq!(moss.lines().count(), 14);
    let error = ChatTemplate::named("vicuna", None, None).unwrap_err();
    assert!(error.to_string().contains("\"vicuna\"") && error.to_string().contains("chatml"));
}

/// The prompt after a history of questions and answers, and its ids by that tokenizer.
fn after_history(name: &str, tokenizer: &Tokenizer, chat: &Value) -> (String, Vec<u32>) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut turns = Vec::new();
    for pair in chat["history"].as_array().unwrap() {
        turns.push(Message::new("user", text(&pair[0])));
        turns.push(Message::new("assistant", text(&pair[1])));
    }
    turns.push(Message::new("user", text(&chat["query"])));
    let template = ChatTemplate::named(name, None, None).unwrap();
    let rendered = template.render(&turns, true, &Map::new()).unwrap();
    (rendered, template.encode(tokenizer, &turns, true, &Map::new()).unwrap())
}

#[test]
fn t01_chatglm_chats_become_the_golden_ids() {
    let golden = json(&fixture("tokenizers/chatglm-6b/golden.json"));
    let tokenizer = ice_text("tokenizers/chatglm-6b/ice_text.model", 0);
    let chats = golden["chat_prompts"].as_array().unwrap();
    assert_eq!(chats.len(), 3);
    for chat in chats {
        let (rendered, found) = after_history("chatglm", &tokenizer, chat);
        assert_eq!(rendered, format!("{}[gMASK]<sop>", chat["prompt"].as_str().unwrap()));
        assert_eq!(found, ids(&chat["input_ids"]));
    }
}

#[test]
fn t01_chatglm2_chats_become_the_golden_ids() {
    let golden = json(&fixture("tokenizers/chatglm2-6b/golden.json"));
    let tokenizer = chatglm("tokenizers/chatglm3-6b/tokenizer.model");
    let chats = golden["chat_prompts"].as_array().unwrap();
    assert_eq!(chats.len(), 3);
    for chat in chats {
        let (rendered, found) = after_history("chatglm2", &tokenizer, chat);
        assert_eq!(rendered, format!("[gMASK]sop{}", chat["prompt"].as_str().unwrap()));
        assert_eq!(found, ids(&chat["input_ids"]));
    }
}

#[test]
fn t01_chatglm3_chats_become_the_golden_ids() {
    let golden = json(&fixture("tokenizers/chatglm3-6b/golden.json"));
    let tokenizer = chatglm("tokenizers/chatglm3-6b/tokenizer.model");
    let template = ChatTemplate::named("chatglm3", None, None).unwrap();
    let chats = golden["chat_inputs"].as_array().unwrap();
    assert_eq!(chats.len(), 4);
    for chat in chats {
        let mut turns = Vec::new();
        for turn in chat["history"].as_array().unwrap() {
            let mut message = messages(&Value::Array(vec![turn.clone()])).remove(0);
            message.extra = turn.as_object().unwrap().clone();
            turns.push(message);
        }
        turns.push(Message::new("user", chat["query"].as_str().unwrap()));
        assert_eq!(template.encode(&tokenizer, &turns, true, &Map::new()).unwrap(), ids(&chat["input_ids"]));
    }
}

#[test]
fn t01_builtin_templates_equal_those_that_models_carry() {
    let golden = json(&fixture("chat-templates/golden.json"));
    for (name, carried) in [
        ("internlm2", "internlm2-chat"),
        ("gemma", "gemma-7b-it"),
        ("gemma3", "gemma3-it"),
        ("llama2", "llama2-chat"),
    ] {
        let entry = &golden["templates"][carried];
        let template =
            ChatTemplate::named(name, entry["bos_token"].as_str(), entry["eos_token"].as_str()).unwrap();
        let cases = entry["cases"].as_array().unwrap();
        let cases = cases.iter().filter(|case| case.get("error").is_none() && case.get("kwargs").is_none());
        let mut count = 0;
        for case in cases {
            let prompt = case["add_generation_prompt"].as_bool().unwrap();
            let found = template.render(&messages(&case["messages"]), prompt, &Map::new());
            assert_eq!(
                found.as_deref(),
                Ok(case["rendered"].as_str().unwrap()),
                "{name}: {}",
                case["conversation"]
            );
            count += 1;
        }
        assert!(count >= 4, "{name}: {count}");
    }
}

#[test]
fn a_system_prompt_is_told_to_models_that_know_one_and_refused_for_others() {
    let turns = [Message::new("system", "Be brief."), Message::new("user", "Hi")];
    for name in ChatTemplate::builtin_names() {
        let template = ChatTemplate::named(name, Some("<s>"), Some("</s>")).unwrap();
        let refuses =
            ["atom", "belle", "chatglm", "chatglm2", "pangu", "llama", "gemma", "llava-1.6-mistral"]
                .contains(&name);
        match template.render(&turns, true, &Map::new()) {
            Ok(text) => {
                assert!(!refuses && text.contains("Be brief.") && text.contains("Hi"), "{name}: {text}")
            }
            Err(error) => {
                assert!(refuses && error.to_string().ends_with("knows no system prompt"), "{name}: {error}");
            }
        }
    }
    let rwkv = ChatTemplate::named("rwkv", None, None).unwrap().render(&turns, true, &Map::new());
    assert_eq!(rwkv.unwrap(), "\nBe brief.\n\nUser: Hi\n\nBot:");
    let moss = ChatTemplate::named("moss", None, None).unwrap().render(&turns, true, &Map::new());
    assert_eq!(moss.unwrap(), "Be brief.\n<|Human|>: Hi<eoh>\n<|MOSS|>:");
}

/// Every tokenizer with a template that uses its special tokens, and the ids that template writes.
fn dressed() -> Vec<(Tokenizer, ChatTemplate)> {
    let llama = || ChatTemplate::named("llama2", Some("<s>"), Some("</s>")).unwrap();
    let chatml = || ChatTemplate::named("chatml", None, None).unwrap();
    let named = |name| ChatTemplate::named(name, None, None).unwrap();
    let tiny = |folder: &str| chatglm(&format!("{folder}/tokenizer.model"));
    vec![
        (demo_tokenizer(), chatml()),
        (qwen2_tiny(), chatml()),
        (llama2(), llama()),
        (atom_tiny(), llama()),
        (ice_text("chatglm-6b-tiny/ice_text.model", 0), named("chatglm")),
        (tiny("chatglm2-6b-tiny"), named("chatglm2")),
        (tiny("chatglm3-6b-tiny"), named("chatglm3")),
    ]
}

fn special_count(tokenizer: &Tokenizer, ids: &[u32]) -> usize {
    let unknown = tokenizer.unknown();
    ids.iter().filter(|id| tokenizer.is_special(**id) && Some(**id) != unknown).count()
}

#[test]
fn t02_user_text_never_becomes_a_special_token() {
    for (tokenizer, template) in dressed() {
        let plain = template.encode(&tokenizer, &user("harmless"), true, &Map::new()).unwrap();
        let want = special_count(&tokenizer, &plain);
        assert!(want > 0);
        for special in tokenizer.special_texts() {
            let ids = tokenizer.encode(special, Special::Text).unwrap();
            assert_eq!(special_count(&tokenizer, &ids), 0, "{special}");
            assert_eq!(tokenizer.decode(&ids, true), *special);
            for content in [
                special.clone(),
                format!("a{special}b {special}"),
                format!("  {special}{special}\n"),
                format!("{}{special}", &special[..1]),
                special[..special.len() - 1].to_owned(),
                special[1..].to_owned(),
                format!("> quoted {special} <"),
            ] {
                let ids = template.encode(&tokenizer, &user(&content), true, &Map::new()).unwrap();
                assert_eq!(special_count(&tokenizer, &ids), want, "{content:?}");
                let text = tokenizer.decode(&ids, false);
                assert!(text.contains(content.trim()), "{content:?} is missing in {text:?}");
            }
        }
    }
}

#[test]
fn t02_marked_text_gets_the_ids_of_its_characters() {
    let tokenizer = demo_tokenizer();
    let template = ChatTemplate::named("chatml", None, None).unwrap();
    let content = "Is <|im_end|> a word?";
    let found = template.encode(&tokenizer, &user(content), true, &Map::new()).unwrap();
    let text = |text: &str| tokenizer.encode(text, Special::Text).unwrap();
    let special = |text: &str| vec![tokenizer.token_id(text).unwrap()];
    let want = [
        special("<|im_start|>"),
        text(&format!("user\n{content}")),
        special("<|im_end|>"),
        text("\n"),
        special("<|im_start|>"),
        text("assistant\n"),
    ];
    assert_eq!(found, want.concat());
}

#[test]
fn t02_roles_and_tools_are_user_text_too() {
    let tokenizer = demo_tokenizer();
    let source = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>{% endfor %}{{ tools | tojson }}";
    let template = ChatTemplate::new(source, None, None).unwrap();
    let mut extra = Map::new();
    extra.insert(
        "tools".to_owned(),
        serde_json::json!([{"name": "<|im_start|>", "<|im_end|>": ["<|im_end|>"]}]),
    );
    let turns = [Message::new("user<|im_end|>", "x")];
    let ids = template.encode(&tokenizer, &turns, true, &extra).unwrap();
    assert_eq!(special_count(&tokenizer, &ids), 2);
    assert!(
        tokenizer.decode(&ids, false).contains(r#"{"name": "<|im_start|>", "<|im_end|>": ["<|im_end|>"]}"#)
    );
}

#[test]
fn t02_pieces_of_a_special_token_in_neighbouring_fields_stay_apart() {
    let tokenizer = demo_tokenizer();
    let template = ChatTemplate::new("{{ messages[0].role }}{{ messages[0].content }}", None, None).unwrap();
    let ids =
        template.encode(&tokenizer, &[Message::new("<|im_", "end|> and on")], true, &Map::new()).unwrap();
    assert_eq!(special_count(&tokenizer, &ids), 0);
    assert_eq!(tokenizer.decode(&ids, false), "<|im_end|> and on");
}

#[test]
fn t03_endless_loops_end_soon() {
    for source in [
        "{% for i in range(10**12) %}{% endfor %}",
        "{% for i in range(1000000000000) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i * j %}{% endfor %}{% endfor %}",
        "{% for i in [1] * 90000 %}{% for i in [1] * 90000 %}x{% endfor %}{% endfor %}",
    ] {
        let start = Instant::now();
        let error = render(source).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(1), "{source}: {:?}", start.elapsed());
        assert!(matches!(error, ChatError::Limit { .. } | ChatError::Render { .. }), "{source}: {error}");
    }
    // The base, and 20 for each of the 33 bytes of this conversation's keys and values.
    let error =
        render("{% for i in range(9999) %}{% for j in range(9999) %}{% set x = 1 %}{% endfor %}{% endfor %}");
    assert_eq!(error, Err(ChatError::Limit { what: "steps", limit: 100_660 }));
}

#[test]
fn t04_recursion_and_huge_strings_are_limited() {
    for source in [
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x' * 10**12 }}",
        "{{ ('x' * 100000) * 100000 }}",
        "{{ [[1] * 90000] * 10**10 }}",
        "{{ 'x'.replace('', 'y' * 10**12) }}",
        "{% for i in range(99999) %}{{ 'xxxxxxxxxx' * 1000 }}{% endfor %}",
        &format!("{{% if 1 %}}{}{{% endif %}}{{{{ 1 // 0 }}}}", "{% elif 1 %}".repeat(5_000)),
        "{% set ns = namespace(a=[1]) %}{% for i in range(20000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a | tojson }}",
        "{% set ns = namespace(a=1) %}{% for i in range(99999) %}{% set ns.a = [ns.a] %}{% endfor %}",
        &format!("{{{{ {}1{} }}}}", "(".repeat(20_000), ")".repeat(20_000)),
        &format!("{{{{ {}1 // 0 }}}}", "not ".repeat(4_000)),
        &format!("{}{}", "{% if 1 %}".repeat(3_000), "{% endif %}".repeat(3_000)),
    ] {
        let start = Instant::now();
        let error = render(source).map(|text| text.len()).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(2), "{source:.60}: {:?}", start.elapsed());
        assert!(!matches!(error, ChatError::Raised { .. }), "{source:.60}: {error}");
    }
    let long = render("{% for i in range(99999) %}{{ 'xxxxxxxxxx' * 1000 }}{% endfor %}");
    assert!(matches!(long, Err(ChatError::Limit { what: "output bytes", .. })), "{long:?}");
    assert!(ChatTemplate::new(&" ".repeat(2 << 20), None, None).is_err());
}

#[test]
fn t05_raise_exception_gives_its_own_words() {
    let error = render("{{ raise_exception('Roles must alternate') }}").unwrap_err();
    assert_eq!(error, ChatError::Raised { message: "Roles must alternate".to_owned() });
    assert_eq!(error.to_string(), "Roles must alternate");
    let inside = render("{% macro f() %}{{ raise_exception('deep') }}{% endmacro %}{{ f() }}").unwrap_err();
    assert_eq!(inside, ChatError::Raised { message: "deep".to_owned() });
}

#[test]
fn faults_of_a_template_name_their_line() {
    let syntax = ChatTemplate::new("a\nb {% if %}", None, None).unwrap_err();
    assert!(matches!(syntax, ChatError::Syntax { line: 2, .. }), "{syntax}");
    let run = render("a\n\n{{ messages[0].nothing.at_all }}").unwrap_err();
    assert!(matches!(run, ChatError::Render { line: 3, .. }), "{run}");
}

#[test]
fn python_functions_and_methods_are_there() {
    assert_eq!(
        render("{{ {'a': [1, 2.5, None], 'ü': '<&>'} | tojson }}").unwrap(),
        r#"{"a": [1, 2.5, null], "ü": "<&>"}"#
    );
    assert_eq!(
        render("{{ {'b': [], 'a': {'c': 1}} | tojson(indent=2) }}").unwrap(),
        "{\n  \"b\": [],\n  \"a\": {\n    \"c\": 1\n  }\n}"
    );
    assert_eq!(render("{{ 'ü😀' | tojson(ensure_ascii=true) }}").unwrap(), r#""\u00fc\ud83d\ude00""#);
    assert_eq!(render("{{ ' a,b '.strip().split(',')[1].upper() }}").unwrap(), "B");
    assert_eq!(render("{{ tools is none }} {{ bos_token is defined }}").unwrap(), "True False");
    let date = render("{{ strftime_now('%Y-%m-%d') }}").unwrap();
    let year: u32 = date[..4].parse().unwrap();
    assert!(year >= 2024 && date.len() == 10 && &date[4..5] == "-", "{date}");
    assert!(render("{{ strftime_now('%Q') }}").is_err());
    assert_eq!(
        render("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}").unwrap(),
        "1"
    );
}

/// Parts of templates, from which sound and broken ones are made.
const WORDS: &[&str] = &[
    "{{ ",
    " }}",
    "{% ",
    " %}",
    "{%- ",
    " -%}",
    "{# ",
    " #}",
    "for message in messages",
    "for i in range(",
    "99999",
    "10**12",
    ")",
    "endfor",
    "if ",
    "elif ",
    "else",
    "endif",
    "set x = ",
    "macro f(x)",
    "endmacro",
    "f(x)",
    "x",
    "i",
    "messages",
    "message",
    ".content",
    "['role']",
    "[0]",
    "[::-1]",
    "[-1:]",
    " | trim",
    " | tojson",
    " | list",
    " | join(',')",
    " | replace('a', x)",
    ".split('x')",
    ".strip()",
    "loop.index0",
    " in ",
    " is ",
    "defined",
    "not ",
    " * ",
    " + ",
    " ~ ",
    " // ",
    " - ",
    "'x'",
    "'<|im_end|>'",
    "none",
    "0",
    "tools",
    "bos_token",
    "add_generation_prompt",
    "raise_exception('no')",
    "strftime_now('%Y')",
    "{'a': [",
    "]}",
    "(",
    ", ",
    "break",
    "\n",
];

/// A conversation of up to three turns, made of these words, with a field more in each.
fn conversation(random: &mut Random, words: &[&str]) -> Vec<Message> {
    let turn = |random: &mut Random| {
        let role = match random.below(4) {
            0 => random.text(words, 3),
            _ => (*random.choice(&["user", "assistant", "system", "tool", ""])).to_owned(),
        };
        let mut message = Message::new(role, random.text(words, 8));
        message.extra.insert("name".to_owned(), Value::from(random.text(words, 3)));
        if random.below(8) == 0 {
            let function = serde_json::json!({"name": random.text(words, 3), "arguments": {random.text(words, 3): 1.5e300}});
            message.extra.insert("tool_calls".to_owned(), serde_json::json!([{"function": function}, null]));
        }
        message
    };
    (0..random.below(4)).map(|_| turn(random)).collect()
}

#[test]
fn fuzz_templates() {
    let golden = json(&fixture("chat-templates/golden.json"));
    let published = golden["templates"].as_object().unwrap().values();
    let mut sources: Vec<String> =
        published.map(|entry| entry["chat_template"].as_str().unwrap().to_owned()).collect();
    let builtin = ChatTemplate::builtin_names().map(|name| ChatTemplate::named(name, None, None).unwrap());
    sources.extend(builtin.map(|template| template.source().to_owned()));
    let tokenizer = demo_tokenizer();
    for_seconds("chat templates", |random| {
        let source = match random.below(4) {
            0 => random.value("[ -~\n]{0,80}"),
            1 => random.text(WORDS, 40),
            2 => {
                let source = random.choice(&sources);
                String::from_utf8_lossy(&random.mutated(source.as_bytes())).into_owned()
            }
            _ => with_words(random, &sources),
        };
        let Ok(template) = ChatTemplate::new(&source, Some("<s>"), Some("</s>")) else { return };
        let turns = conversation(random, WORDS);
        let input: usize = turns.iter().map(|turn| turn.role.len() + turn.content.len() + 2000).sum();
        match template.render(&turns, random.below(2) == 0, &Map::new()) {
            Ok(text) => assert!(text.len() <= (4 << 20) + 4 * (input + 1000), "{} bytes", text.len()),
            Err(error) => drop(error.to_string()),
        }
        let _ = template.encode(&tokenizer, &turns, true, &Map::new());
    });
}

/// A published template in which one to four stretches are replaced by other words.
fn with_words(random: &mut Random, sources: &[String]) -> String {
    let mut source = random.choice(sources).clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(source.len());
        let end = (at + random.below(12)).min(source.len());
        if source.is_char_boundary(at) && source.is_char_boundary(end) {
            source.replace_range(at..end, random.choice::<&str>(WORDS));
        }
    }
    source
}

/// A template that writes special tokens, beginnings or ends of them, and what users say, in any order. Not
/// beginnings and ends: one that puts what users say inside of a special token means it.
fn honest_template(random: &mut Random, specials: &[String]) -> String {
    const FIELDS: &[&str] = &[
        "{{ message.role }}",
        "{{ message.content }}",
        "{{ message.content | trim }}",
        "{{ message['content'].strip() }}",
        "{{ message.role + ' ' + message.content }}",
        "{{ message.name }}{{ message.content }}",
        "{{ message | tojson }}",
        "{{ tools | tojson(indent=1) }}",
    ];
    let ends = random.below(2) == 0;
    let part = |random: &mut Random| match random.below(4) {
        0 => random.choice(specials).clone(),
        // What users say before or after it could complete it, and must not.
        1 if ends => random.choice(specials).chars().skip(random.below(8)).collect(),
        1 => random.choice(specials).chars().take(random.below(5)).collect(),
        _ => (*random.choice(FIELDS)).to_owned(),
    };
    let body: String = (0..1 + random.below(6)).map(|_| part(random)).collect();
    format!("{{% for message in messages %}}{body}{{% endfor %}}{}", random.choice(specials))
}

/// The same value without anything that could be special: white space, or one letter.
fn harmless(value: &Value) -> Value {
    let bare = |text: &str| if text.trim().is_empty() { text.to_owned() } else { "x".to_owned() };
    match value {
        Value::String(text) => Value::from(bare(text)),
        Value::Array(items) => items.iter().map(harmless).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), harmless(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn fuzz_users_write_no_special_token() {
    let dressed: Vec<Tokenizer> = dressed().into_iter().map(|(tokenizer, _)| tokenizer).collect();
    for_seconds("special tokens in conversations", |random| {
        let which = random.below(dressed.len());
        let (tokenizer, specials) = (&dressed[which], dressed[which].special_texts());
        // A token that is a word (ChatGLM's `sop`) is one or not by the letter beside it, whoever wrote that.
        let word =
            |text: &&String| text.ends_with(char::is_alphanumeric) || text.starts_with(char::is_alphanumeric);
        let marks: Vec<String> = specials.iter().filter(|text| !word(text)).cloned().collect();
        let template = ChatTemplate::new(&honest_template(random, &marks), None, None).unwrap();
        let special = random.choice(specials).clone();
        let at = special.char_indices().map(|(at, _)| at).nth(random.below(special.chars().count())).unwrap();
        let words = [
            &special,
            &special[..at],
            &special[at..],
            "end",
            "im_",
            "|",
            ">",
            "<",
            " ",
            "\n",
            "a",
            "é",
            "\u{fdd0}",
        ];
        let turns = conversation(random, &words);
        let tools = serde_json::json!([{"name": random.text(&words, 3), "type": random.text(&words, 3)}]);
        let encode = |turns: &[Message], tools: Value| {
            let extra = Map::from_iter([("tools".to_owned(), tools)]);
            let ids = template.encode(tokenizer, turns, true, &extra).unwrap();
            (special_count(tokenizer, &ids), ids, template.render(turns, true, &extra).unwrap())
        };
        let plain: Vec<Message> = turns.iter().map(plain).collect();
        let (want, ..) = encode(&plain, harmless(&tools));
        let (found, ids, text) = encode(&turns, tools);
        assert_eq!(found, want, "{turns:?} in {:?}", template.source());
        // Other vocabularies add and take a space at the beginning.
        if which < 2 {
            assert_eq!(tokenizer.decode(&ids, false), text, "{turns:?} in {:?}", template.source());
        }
    });
}

fn plain(turn: &Message) -> Message {
    let text = |text: &str| harmless(&Value::from(text)).as_str().unwrap().to_owned();
    let mut plain = Message::new(text(&turn.role), text(&turn.content));
    plain.extra = harmless(&Value::Object(turn.extra.clone())).as_object().unwrap().clone();
    plain
}

#[test]
fn fuzz_harmless_text_is_encoded_as_a_whole() {
    let (tokenizer, template) = (demo_tokenizer(), ChatTemplate::named("chatml", None, None).unwrap());
    for_seconds("harmless text", |random| {
        let turns = user(&random.value("\\PC{0,60}"));
        let text = template.render(&turns, true, &Map::new()).unwrap();
        let ids = template.encode(&tokenizer, &turns, true, &Map::new()).unwrap();
        assert_eq!(ids, tokenizer.encode(&text, Special::Parse).unwrap());
    });
}

#[test]
fn fuzz_no_mixture_of_fragments_is_special() {
    let fragments =
        ["<|", "|", "im_", "end", "start", "<|im_end|>", "<|im_start|>", ">", " ", "a", "\u{fdd0}"];
    let (tokenizer, template) = (demo_tokenizer(), ChatTemplate::named("chatml", None, None).unwrap());
    for_seconds("fragments", |random| {
        let turns = user(&random.text(&fragments, 12));
        let ids = template.encode(&tokenizer, &turns, true, &Map::new()).unwrap();
        assert_eq!(special_count(&tokenizer, &ids), 3, "{turns:?}");
        let text = template.render(&turns, true, &Map::new()).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text);
    });
}

#[test]
fn images_come_before_the_text() {
    let turns = [
        Message::new("user", "What is this?").with_images(2),
        Message::new("assistant", "A cat."),
        Message::new("user", "Why?"),
    ];
    let render = |name: &str| {
        ChatTemplate::named(name, Some("<s>"), Some("</s>"))
            .unwrap()
            .render(&turns, true, &Map::new())
            .unwrap()
    };
    assert_eq!(
        render("llava"),
        "<s>USER: <image>\n<image>\nWhat is this? ASSISTANT: A cat.</s>USER: Why? ASSISTANT:"
    );
    assert_eq!(
        render("llava-1.6-mistral"),
        "<s>[INST] <image>\n<image>\nWhat is this? [/INST] A cat.</s>[INST] Why? [/INST]"
    );
    // The template of llava-hf's processors takes parts alone.
    let source = "{% for message in messages %}{{ message['role'].upper() + ': ' }}\
                  {% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}\
                  {% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}\
                  {% endfor %}";
    let template = ChatTemplate::new(source, None, None).unwrap().of_parts();
    assert_eq!(
        template.render(&turns, true, &Map::new()).unwrap(),
        "USER: <image>\n<image>\nWhat is this? ASSISTANT: A cat. USER: Why? "
    );
}
