//! The RESP protocol: decoding requests and encoding replies. Pure and incremental.
