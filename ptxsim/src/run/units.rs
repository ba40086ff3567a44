//! What the units of warp groups know of shared memory, which they read by another way than threads do.

use crate::error::Reason;

/// Bytes of a word, and of what a product reads at a time.
const WORD: usize = 4;
const PIECE: usize = 16;

type Wrong = (Reason, String);

/// Which words threads have shown to the units, and what products read.
pub(crate) struct Units {
    /// For each word the thread that has written it, plus one, until it shows it to the units.
    hidden: Vec<u16>,
    /// The words that each thread has written and not shown.
    written: Vec<Vec<u32>>,
    /// For each word when it was shown.
    shown: Vec<u32>,
    /// For each 16 bytes how many products that read them are under way.
    readers: Vec<u32>,
}

impl Units {
    pub(crate) fn new(len: usize) -> Units {
        let words = len.div_ceil(WORD);
        Units {
            hidden: vec![0; words],
            written: Vec::new(),
            shown: vec![0; words],
            readers: vec![0; len.div_ceil(PIECE)],
        }
    }

    pub(crate) fn begin_block(&mut self) {
        self.hidden.fill(0);
        self.written.iter_mut().for_each(Vec::clear);
        self.readers.fill(0);
    }

    /// A thread writes bytes, or a copy of its writes them.
    pub(crate) fn write(&mut self, start: usize, len: usize, thread: u16) -> Result<(), Wrong> {
        if self.readers[start / PIECE..(start + len).div_ceil(PIECE)].iter().any(|readers| *readers > 0) {
            let why = "it is written while a product that reads it is not waited for".to_owned();
            return Err((Reason::PendingProduct, why));
        }
        let own = usize::from(thread);
        if self.written.len() <= own {
            self.written.resize_with(own + 1, Vec::new);
        }
        for word in start / WORD..(start + len).div_ceil(WORD) {
            if self.hidden[word] != thread + 1 {
                self.hidden[word] = thread + 1;
                self.written[own].push(word as u32);
            }
        }
        Ok(())
    }

    /// A thread shows the units what it has written until now.
    pub(crate) fn fence(&mut self, thread: u16, now: u32) {
        let Some(written) = self.written.get_mut(usize::from(thread)) else { return };
        for word in written.drain(..) {
            let word = word as usize;
            // Another thread may have written it since.
            if self.hidden[word] == thread + 1 {
                self.hidden[word] = 0;
                self.shown[word] = now;
            }
        }
    }

    /// A product reads 16 bytes, the block having passed its last barrier at that time.
    pub(crate) fn begin_product(&mut self, start: usize, barrier: u32) -> Result<(), Wrong> {
        for word in start / WORD..(start + PIECE) / WORD {
            let missing = match (self.hidden[word], self.shown[word] >= barrier) {
                (0, false) => continue,
                (0, true) => "with no barrier since its fence.proxy.async".to_owned(),
                (thread, _) => {
                    format!("with no fence.proxy.async of thread {} since it wrote it", thread - 1)
                }
            };
            return Err((Reason::ProxyFence, format!("a product reads it {missing}")));
        }
        self.readers[start / PIECE] += 1;
        Ok(())
    }

    pub(crate) fn end_product(&mut self, start: usize) {
        self.readers[start / PIECE] -= 1;
    }
}
