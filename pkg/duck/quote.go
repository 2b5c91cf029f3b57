package duck

import "strings"

// Ident quotes a name as a SQL identifier.
func Ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Literal quotes a text as a SQL string.
func Literal(text string) string { return `'` + strings.ReplaceAll(text, `'`, `''`) + `'` }
