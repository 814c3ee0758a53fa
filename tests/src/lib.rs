//! Harness for suites that boot real guests.
