//! Keeps byte blobs on a tier of memory within budgets.
