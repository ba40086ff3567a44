//! The language of tensor programs: nodes, index expressions, symbols, and their meaning.
