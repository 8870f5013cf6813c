"""How quick Chronicle is, beside what else would be used: `make bench`, `make profile`, `make guard`."""
