"""Every query, one file a table family. Functions take a transaction and never commit; they hand out frozen records."""
