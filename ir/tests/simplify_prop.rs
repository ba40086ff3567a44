//! The simplifier against plain evaluation: random expressions are built by the constructors and, at random
//! points, compared with the same tree evaluated as it was written.
#![allow(clippy::unwrap_used)]

use jtllm_fuzz::{Random, for_seconds};
use jtllm_ir::expr::{Environment, facts_of, proves_nonnegative};
use jtllm_ir::{DType, Expr, Graph, Symbol, parse, print};
use proptest::prelude::*;

/// An expression as it is written.
#[derive(Clone, Debug)]
enum Tree {
    Int(i64),
    Axis(u16),
    Symbol(usize),
    Extra(u32, Box<Tree>),
    Add(Box<Tree>, Box<Tree>),
    Sub(Box<Tree>, Box<Tree>),
    Mul(Box<Tree>, Box<Tree>),
    Div(Box<Tree>, i64),
    Mod(Box<Tree>, i64),
    Min(Box<Tree>, Box<Tree>),
    Max(Box<Tree>, Box<Tree>),
    Less(Box<Tree>, Box<Tree>),
    AtMost(Box<Tree>, Box<Tree>),
    Equal(Box<Tree>, Box<Tree>),
    And(Box<Tree>, Box<Tree>),
}

fn symbols() -> [Symbol; 2] {
    [Symbol::new("T", 1, 40, 1), Symbol::new("S", 16, 64, 16)]
}

/// The extents of the three axes: a constant, a symbol, a multiple of a symbol.
fn extents() -> Vec<Expr> {
    let [t, s] = symbols();
    vec![Expr::int(17), Expr::symbol(&t), Expr::symbol(&s) * 2]
}

const EXTRAS: [(i64, i64); 2] = [(0, 33), (-1, 9)];

/// One way to give the leaves values.
#[derive(Clone, Debug)]
struct Point {
    axes: Vec<i64>,
    symbols: [i64; 2],
    seed: i64,
}

impl Environment for Point {
    fn axis(&self, index: u16) -> i64 {
        self.axes[usize::from(index)]
    }

    fn symbol(&self, symbol: &Symbol) -> i64 {
        self.symbols[symbols().iter().position(|s| s == symbol).unwrap()]
    }

    fn extra(&self, slot: u32, at: &[i64]) -> i64 {
        let (low, end) = EXTRAS[slot as usize];
        low + (at[0].wrapping_mul(31).wrapping_add(self.seed)).rem_euclid(end - low)
    }
}

impl Tree {
    fn build(&self) -> Expr {
        match self {
            Tree::Int(value) => Expr::int(*value),
            Tree::Axis(index) => Expr::axis(*index, &extents()[usize::from(*index)]),
            Tree::Symbol(index) => Expr::symbol(&symbols()[*index]),
            Tree::Extra(slot, at) => {
                let (low, end) = EXTRAS[*slot as usize];
                Expr::extra(*slot, vec![at.build()], low, &Expr::int(end))
            }
            Tree::Add(a, b) => a.build() + b.build(),
            Tree::Sub(a, b) => a.build() - b.build(),
            Tree::Mul(a, b) => a.build() * b.build(),
            Tree::Div(a, d) => a.build().div_floor(*d),
            Tree::Mod(a, d) => a.build().modulo(*d),
            Tree::Min(a, b) => a.build().minimum(&b.build()),
            Tree::Max(a, b) => a.build().maximum(&b.build()),
            Tree::Less(a, b) => a.build().less_than(&b.build()),
            Tree::AtMost(a, b) => a.build().at_most(&b.build()),
            Tree::Equal(a, b) => a.build().equals(&b.build()),
            Tree::And(a, b) => a.build().and(&b.build()),
        }
    }

    fn value(&self, point: &Point) -> i64 {
        let of = |tree: &Tree| tree.value(point);
        match self {
            Tree::Int(value) => *value,
            Tree::Axis(index) => point.axis(*index),
            Tree::Symbol(index) => point.symbols[*index],
            Tree::Extra(slot, at) => point.extra(*slot, &[of(at)]),
            Tree::Add(a, b) => of(a).wrapping_add(of(b)),
            Tree::Sub(a, b) => of(a).wrapping_sub(of(b)),
            Tree::Mul(a, b) => of(a).wrapping_mul(of(b)),
            Tree::Div(a, d) => of(a).div_euclid(*d),
            Tree::Mod(a, d) => of(a).rem_euclid(*d),
            Tree::Min(a, b) => of(a).min(of(b)),
            Tree::Max(a, b) => of(a).max(of(b)),
            Tree::Less(a, b) => i64::from(of(a) < of(b)),
            Tree::AtMost(a, b) => i64::from(of(a) <= of(b)),
            Tree::Equal(a, b) => i64::from(of(a) == of(b)),
            Tree::And(a, b) => i64::from(of(a) != 0 && of(b) != 0),
        }
    }
}

fn divisor() -> impl Strategy<Value = i64> {
    prop_oneof![Just(2), Just(4), Just(8), Just(16), Just(32), 1i64..20]
}

fn tree() -> impl Strategy<Value = Tree> {
    let constant = prop_oneof![-20i64..40, Just(16), Just(32), Just(4)];
    let leaf = prop_oneof![
        constant.clone().prop_map(Tree::Int),
        (0u16..3).prop_map(Tree::Axis),
        (0usize..2).prop_map(Tree::Symbol),
    ];
    leaf.prop_recursive(5, 24, 2, move |inner| {
        let pair = (inner.clone(), inner.clone());
        let boxed = |(a, b): (Tree, Tree)| (Box::new(a), Box::new(b));
        let comparison = pair.clone().prop_map(boxed).prop_map(|(a, b)| Tree::Less(a, b));
        prop_oneof![
            3 => pair.clone().prop_map(boxed).prop_map(|(a, b)| Tree::Add(a, b)),
            2 => pair.clone().prop_map(boxed).prop_map(|(a, b)| Tree::Sub(a, b)),
            1 => pair.clone().prop_map(boxed).prop_map(|(a, b)| Tree::Mul(a, b)),
            2 => (inner.clone(), constant.clone())
                .prop_map(|(a, c)| Tree::Mul(Box::new(a), Box::new(Tree::Int(c)))),
            3 => (inner.clone(), divisor()).prop_map(|(a, d)| Tree::Div(Box::new(a), d)),
            3 => (inner.clone(), divisor()).prop_map(|(a, d)| Tree::Mod(Box::new(a), d)),
            1 => pair.clone().prop_map(boxed).prop_map(|(a, b)| Tree::Min(a, b)),
            1 => pair.clone().prop_map(boxed).prop_map(|(a, b)| Tree::Max(a, b)),
            1 => comparison.clone(),
            1 => pair.clone().prop_map(boxed).prop_map(|(a, b)| Tree::AtMost(a, b)),
            1 => pair.prop_map(boxed).prop_map(|(a, b)| Tree::Equal(a, b)),
            1 => (comparison.clone(), comparison).prop_map(boxed).prop_map(|(a, b)| Tree::And(a, b)),
            1 => (0u32..2, inner).prop_map(|(slot, at)| Tree::Extra(slot, Box::new(at))),
        ]
    })
}

fn point() -> impl Strategy<Value = Point> {
    (1i64..=40, 1i64..=4, any::<u16>(), any::<[u16; 3]>()).prop_map(|(t, s, seed, axes)| {
        let symbols = [t, s * 16];
        let extents = [17, t, s * 32];
        let axes = axes.iter().zip(extents).map(|(x, n)| i64::from(*x) % n).collect();
        Point { axes, symbols, seed: i64::from(seed) }
    })
}

fn points(random: &mut Random) -> Vec<Point> {
    (0..8).map(|_| random.value(point())).collect()
}

#[test]
fn fuzz_normal_form_has_the_value_of_the_tree() {
    for_seconds("values of normal forms", |random| {
        let tree = random.value(tree());
        let built = tree.build();
        for point in &points(random) {
            let value = tree.value(point);
            assert_eq!(built.evaluate(point), value, "{built} at {point:?}, made of {tree:?}");
            assert!(built.low() <= value && value <= built.high(), "{built} is not in its interval");
            let divisor = built.divisor();
            let divides = if divisor == 0 { value == 0 } else { value % divisor == 0 };
            assert!(divides, "{built} is {value}, no multiple of {divisor}");
        }
    });
}

#[test]
fn fuzz_normal_form_is_a_fixed_point() {
    for_seconds("normal forms of normal forms", |random| {
        let built = random.value(tree()).build();
        assert_eq!(built.substitute(&mut |_| None), built);
    });
}

#[test]
fn fuzz_normal_form_survives_text() {
    for_seconds("normal forms as text", |random| {
        let mut graph = Graph::new("g");
        symbols().iter().for_each(|symbol| {
            graph.symbol(symbol);
        });
        let extras = EXTRAS
            .map(|(low, end)| graph.input("e", DType::I32, &[Expr::int(100)], Some((low, Expr::int(end)))));
        let built = random.value(tree()).build();
        graph.index(DType::I32, &extents(), &extras, |_| built);
        let text = print(&graph);
        let read = parse(&text);
        assert!(read.as_ref() == Ok(&graph), "{text}\n{:?}", read.map(|graph| print(&graph)));
    });
}

#[test]
fn fuzz_no_falsehood_is_proven() {
    for_seconds("proofs", |random| {
        let claim = random.value(tree()).build();
        let condition = random.value(tree()).build().less_than(&random.value(tree()).build());
        let facts = facts_of(&condition);
        let (bare, with_facts) = (proves_nonnegative(&claim, &[]), proves_nonnegative(&claim, &facts));
        assert!(with_facts || !bare, "facts must not weaken a proof of {claim}");
        for point in &points(random) {
            let value = claim.evaluate(point);
            assert!(!bare || value >= 0, "{claim} is {value} at {point:?}");
            if condition.evaluate(point) == 1 {
                assert!(!with_facts || value >= 0, "{claim} is {value} where {condition}");
            }
        }
    });
}

#[test]
fn fuzz_what_is_cut_off_can_be_proven() {
    for_seconds("proofs of bounds", |random| {
        let (axis, low, d) = (random.value(0u16..3), random.value(-3i64..3), random.value(divisor()));
        let extent = &extents()[usize::from(axis)];
        let i = Expr::axis(axis, extent);
        let clamped = (i.clone() + low).maximum(&Expr::int(0)).minimum(&(extent.clone() - 1));
        assert!(proves_nonnegative(&clamped, &[]));
        assert!(proves_nonnegative(&(extent.clone() - 1 - clamped), &[]));
        let group = i.clone().div_floor(d);
        assert!(proves_nonnegative(&(extent.clone().div_ceil(d) - 1 - group), &[]));
        // With the condition `0 <= i + low < extent` the shifted coordinate is inside, whatever the shift.
        let shifted = i + low;
        let ok = Expr::int(0).at_most(&shifted).and(&shifted.less_than(extent));
        let facts = facts_of(&ok);
        assert!(proves_nonnegative(&shifted, &facts), "{shifted} where {ok}");
        assert!(proves_nonnegative(&(extent.clone() - 1 - shifted), &facts), "below where {ok}");
    });
}

/// `(i * a + j + c) div d` and `mod d` at every point, for extents on both sides of each power of two: a term
/// that may just reach the next multiple must not be taken for one that cannot.
#[test]
fn quotients_of_two_axes_are_right_at_every_point() {
    let extents = [1, 4, 5, 15, 16, 17];
    for (rows, columns) in extents.iter().flat_map(|rows| extents.map(|columns| (*rows, columns))) {
        let [i, j] = [(0, rows), (1, columns)].map(|(index, extent)| Expr::axis(index, &Expr::int(extent)));
        for (a, c, d) in [1, 2, 4, 16, -4]
            .into_iter()
            .flat_map(|a| [0, 1, 3, -1, 16].map(|c| (a, c)))
            .flat_map(|(a, c)| [3, 4, 8, 32].map(|d| (a, c, d)))
        {
            let x = i.clone() * a + j.clone() + c;
            let (quotient, remainder) = (x.clone().div_floor(d), x.clone().modulo(d));
            let coarse = x.clone().modulo(d * 2).div_floor(2) * 2 + x.clone().modulo(2);
            for at in 0..rows * columns {
                let point = Point { axes: vec![at / columns, at % columns], symbols: [1, 16], seed: 0 };
                let value = point.axes[0] * a + point.axes[1] + c;
                assert_eq!(quotient.evaluate(&point), value.div_euclid(d), "({x}) div {d} at {point:?}");
                assert_eq!(remainder.evaluate(&point), value.rem_euclid(d), "({x}) mod {d} at {point:?}");
                assert_eq!(coarse.evaluate(&point), value.rem_euclid(d * 2), "({x}) mod {d}*2 at {point:?}");
            }
        }
    }
}
