//! ChatRWKV's commands: which prompt each line becomes, and how it is answered.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use jtllm_models::chat::{Asked, Dialogue, Message, Turn};
use jtllm_models::sample::Sampling;
use jtllm_models::{Checkpoint, Language};

const OPENING: &str = "\nThe following is a verbose and detailed conversation between an AI assistant called \
    Bot, and a human user called User. Bot is intelligent, knowledgeable, wise and polite.\n\n";

/// The words of an RWKV model with the World vocabulary, in a folder of that name.
fn language(name: &str) -> Language {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join(name);
    fs::create_dir(&folder).unwrap();
    fs::copy(fixtures.join("rwkv-4-tiny/RWKV-4-tiny.pth"), folder.join("RWKV-4-tiny.pth")).unwrap();
    let words = "rwkv_vocab_v20230424.txt";
    fs::copy(fixtures.join("tokenizers/rwkv-world").join(words), folder.join(words)).unwrap();
    Language::of(&Checkpoint::open(&folder).unwrap()).unwrap()
}

struct Chat {
    language: Language,
    dialogue: Box<dyn Dialogue>,
    sampling: Sampling,
}

impl Chat {
    fn new(name: &str, system: Option<&str>) -> Chat {
        let language = language(name);
        let sampling = language.family.sampling(&language.tokenizer, false);
        let pace = (language.prompted.pace)(&language.tokenizer);
        Chat {
            dialogue: language.dialogue(system, 0).unwrap(),
            language,
            sampling: Sampling { pace, ..sampling },
        }
    }

    fn ask(&mut self, line: &str) -> Asked {
        self.dialogue.ask(&self.language, line, &self.sampling).unwrap()
    }

    fn turn(&mut self, line: &str) -> Turn {
        match self.ask(line) {
            Asked::Answer(turn) => *turn,
            Asked::Note(note) => panic!("{line}: {note}"),
        }
    }

    fn note(&mut self, line: &str) -> String {
        match self.ask(line) {
            Asked::Answer(turn) => panic!("{line}: {}", self.text(&turn)),
            Asked::Note(note) => note,
        }
    }

    fn text(&self, turn: &Turn) -> String {
        self.language.tokenizer.decode(&turn.prompt, false)
    }

    /// What a line asks for, behind the opening.
    fn asks(&mut self, line: &str) -> String {
        let turn = self.turn(line);
        let text = self.text(&turn);
        text.strip_prefix(OPENING)
            .map(|rest| rest.rsplit("而不是飞行。\n\n").next().unwrap().to_owned())
            .unwrap()
    }

    fn answer(&mut self, text: &str, ended: bool) {
        let ids = self.language.tokenizer.encode(text, jtllm_models::tokenizer::Special::Text).unwrap();
        self.dialogue.answered(&self.language, &ids, text, ended).unwrap();
    }
}

#[test]
fn a_conversation_is_a_text_that_is_only_added_to() {
    let mut chat = Chat::new("rwkv-4-tiny", None);
    let first = chat.turn("hello");
    let by_template = chat.language.rendered(&[Message::new("user", "hello")]).unwrap();
    assert_eq!(chat.text(&first), by_template, "one message is what the template makes of it");
    assert_eq!((first.ends, first.tokens_max), (true, None));
    chat.answer(" Hi.\n\n", true);
    let second = chat.turn("a\r\n\r\n\r\nb");
    assert!(second.prompt.starts_with(&first.prompt), "nothing before is encoded anew");
    assert!(chat.text(&second).ends_with("User: hello\n\nBot: Hi.\n\nUser: a\nb\n\nBot:"));
    chat.answer(" cut", false);
    assert!(chat.asks("go\\non").ends_with("Bot: cut\n\nUser: go\non\n\nBot:"));
}

#[test]
fn each_command_has_its_prompt() {
    let mut chat = Chat::new("rwkv-4-tiny", None);
    assert!(chat.note("+").contains("no answer yet"));
    assert!(chat.note("++").contains("no +gen or +qa"));
    assert_eq!(chat.asks("hello"), "User: hello\n\nBot:");
    chat.answer(" A\n\n", true);
    assert_eq!(chat.asks("+"), "User: hello\n\nBot:", "the same again");
    chat.answer(" B\n\n", true);
    let free = chat.turn("+GEN Once upon");
    assert_eq!(chat.text(&free), "\nOnce upon");
    assert_eq!((free.ends, free.tokens_max), (false, Some(200)));
    assert_eq!(free.sampling.pace, None);
    chat.answer(" a time", false);
    let again = chat.turn("++");
    assert_eq!(chat.text(&again), "\nOnce upon");
    assert_eq!(chat.asks("+qa who?"), "User: who?\n\nBot:", "outside of the conversation");
    let question = chat.turn("+qa who?");
    let line_end = chat.language.tokenizer.encode("\n", jtllm_models::tokenizer::Special::Text).unwrap();
    let pace = question.sampling.pace.unwrap();
    assert_eq!(([pace.token].as_slice(), pace.bias(0), pace.bias(9)), (line_end.as_slice(), 0.0, -2.0));
    chat.answer(" me", false);
    assert_eq!(chat.asks("then?"), "User: hello\n\nBot: B\n\nUser: then?\n\nBot:", "B took A's place");
    assert_eq!(chat.note("+reset"), "Chat reset.");
    assert_eq!(chat.asks("+5 = ?"), "User: +5 = ?\n\nBot:", "no command: a message");
}

#[test]
fn a_line_may_say_its_sampling() {
    let mut chat = Chat::new("rwkv-4-tiny", None);
    let turn = chat.turn("say -temp=0.5 it -top_p=0.25");
    assert!(chat.text(&turn).ends_with("User: say  it\n\nBot:"));
    assert_eq!((turn.sampling.temperature, turn.sampling.top_p), (0.5, 0.25));
    let clamped = chat.turn("x -temp=0 -top_p=7").sampling;
    assert_eq!((clamped.temperature, clamped.top_p), (0.2, 1.0));
    assert_eq!(chat.turn("x -temp=9").sampling.temperature, 5.0);
    let plain = chat.turn("x").sampling;
    assert_eq!((plain.temperature, plain.top_p), (1.0, 0.85), "one line's options are that line's");
    assert_eq!(chat.turn("+gen x -temp=2").sampling.temperature, 2.0);
    for wrong in ["x -temp=", "x -temp=warm", "-top_p=nan x"] {
        assert!(chat.note(wrong).contains("expected a number"), "{wrong}");
    }
    assert!(chat.note("-temp=1").contains("need a message"));
}

#[test]
fn the_sampling_of_chatrwkv() {
    let chat = Chat::new("rwkv-4-tiny", None);
    let Sampling { logit_bias, never_twice, top_k, min_p, pace, .. } = &chat.sampling;
    assert_eq!(logit_bias.as_slice(), [(0, f32::NEG_INFINITY)]);
    let texts: Vec<String> =
        never_twice.iter().map(|id| chat.language.tokenizer.decode(&[*id], false)).collect();
    assert_eq!(texts, ["，", "。", "：", "？", "！"]);
    assert_eq!((*top_k, *min_p), (0, 0.0));
    let pace = pace.unwrap();
    let bias = |count: u32| (pace.bias(count) * 100.0).round() / 100.0;
    assert_eq!([bias(0), bias(1)], [f32::NEG_INFINITY; 2]);
    // ChatRWKV's i counts one less.
    assert_eq!([bias(2), bias(11), bias(41), bias(42), bias(151)], [-3.9, -3.0, 0.0, 0.0, 0.0]);
    assert_eq!([bias(152), bias(156)], [0.25, 1.25]);
    assert_eq!(chat.language.prompted.stops, ["\n\n"]);
}

#[test]
fn a_system_prompt_begins_the_conversation_and_other_models_take_no_commands() {
    let mut chat = Chat::new("rwkv-4-tiny", Some("Be brief."));
    let turn = chat.turn("hello");
    assert_eq!(chat.text(&turn), "\nBe brief.\n\nUser: hello\n\nBot:");
    chat.answer(" Hi\n\n", true);
    chat.dialogue.clear();
    let turn = chat.turn("hello");
    assert_eq!(chat.text(&turn), "\nBe brief.\n\nUser: hello\n\nBot:");
    let mut world = Chat::new("rwkv-6-world", None);
    let turn = world.turn("hello");
    assert_eq!(world.text(&turn), "User: hello\n\nAssistant:");
    let demo = Language::of(&Checkpoint::demo().unwrap()).unwrap();
    let mut dialogue = demo.dialogue(None, 0).unwrap();
    assert_eq!(dialogue.commands(), "");
    match dialogue.ask(&demo, "+gen x -temp=2", &Sampling::default()).unwrap() {
        Asked::Answer(turn) => {
            assert_eq!(turn.prompt, demo.chat(&[Message::new("user", "+gen x -temp=2")]).unwrap());
            assert_eq!(turn.sampling, Sampling::default());
        }
        Asked::Note(note) => panic!("{note}"),
    }
}

/// A line may be refused before anybody asks: then there is nothing to take back.
#[test]
fn only_a_question_without_an_answer_is_withdrawn() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/qwen2-gqa-untied-tiny");
    let language = Language::of(&Checkpoint::open(&folder).unwrap()).unwrap();
    let sampling = language.family.sampling(&language.tokenizer, false);
    let mut dialogue = language.dialogue(Some("Be brief."), 0).unwrap();
    let ask = |dialogue: &mut Box<dyn Dialogue>, line: &str| match dialogue
        .ask(&language, line, &sampling)
        .unwrap()
    {
        Asked::Answer(turn) => turn.prompt,
        Asked::Note(note) => panic!("{note}"),
    };
    let first = [Message::new("system", "Be brief."), Message::new("user", "Hello")];
    dialogue.withdraw();
    assert_eq!(ask(&mut dialogue, "Hello"), language.chat(&first).unwrap());
    dialogue.answered(&language, &[], "Yes?", true).unwrap();
    dialogue.withdraw();
    let rest = [Message::new("assistant", "Yes?"), Message::new("user", "More")];
    let all = [&first[..], &rest].concat();
    assert_eq!(ask(&mut dialogue, "More"), language.chat(&all).unwrap());
    dialogue.withdraw();
    assert_eq!(ask(&mut dialogue, "More"), language.chat(&all).unwrap());
}
