//! The bus, the two ways into configuration space, and MSI-X.
