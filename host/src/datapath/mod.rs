//! The only room that names aya: loads, attaches and pins the kernel programs, and offers their maps in our words.
