//! `tidegate.yaml`: what was written, and what it means.
