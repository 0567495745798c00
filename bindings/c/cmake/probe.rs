//! An empty library: what its link needs beside itself is what the standard library needs.
