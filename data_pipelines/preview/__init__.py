"""Documents to look at: `record` (a document as the page takes it), `page` (one HTML file), `server` (for big sets)."""
