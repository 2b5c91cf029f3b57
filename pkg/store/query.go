package store

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// asQuery returns the value of --from without a final semicolon, and reports
// whether it begins like a query. It ignores comments before and after the
// query.
func asQuery(from string) (query string, ok bool) {
	begin, end := extent(from)
	query = from[begin:end]
	first := query
	for skip := 1; skip > 0; first = first[skip:] {
		first = strings.TrimLeft(first, "(")
		skip, _ = extent(first)
	}
	word := strings.IndexFunc(first, func(r rune) bool { return !unicode.IsLetter(r) })
	if word < 0 || !slices.Contains([]string{"SELECT", "FROM", "WITH", "VALUES", "TABLE"}, strings.ToUpper(first[:word])) {
		return "", false
	}
	next := first[word:]
	if !strings.ContainsRune(" \t\r\n*('\"$", rune(next[0])) && !strings.HasPrefix(next, "--") && !strings.HasPrefix(next, "/*") {
		return "", false
	}
	return query, true
}

// token matches one token of DuckDB's scanner in which a semicolon or the start
// of a comment has no meaning, or a single character.
var token = regexp.MustCompile(`(?s)^(?:[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$\$.*?\$\$|\$[A-Za-z_]\w*\$|\w+|.)`)

// extent finds where a statement begins and ends, without surrounding space,
// comments and semicolons.
func extent(sql string) (begin, end int) {
	begin = -1
	for i := 0; i < len(sql); {
		rest := sql[i:]
		switch {
		case strings.HasPrefix(rest, "--"):
			n := strings.IndexByte(rest, '\n')
			if n < 0 {
				n = len(rest)
			}
			i += n
		case strings.HasPrefix(rest, "/*"):
			i += comment(rest)
		case strings.ContainsRune(" \t\r\n\f\v;", rune(rest[0])):
			i++
		default:
			if begin < 0 {
				begin = i
			}
			tag := token.FindString(rest)
			if n := len(tag); n > 2 && tag[0] == '$' && tag[1] != '$' { // $tag$ … $tag$
				if close := strings.Index(rest[n:], tag); close >= 0 {
					tag = rest[:n+close+n]
				}
			}
			i += max(len(tag), 1)
			end = i
		}
	}
	return max(begin, 0), end
}

// comment returns the length of the comment at the start of sql. Comments may be
// nested.
func comment(sql string) int {
	depth := 0
	for i := 0; i < len(sql); i++ {
		switch {
		case strings.HasPrefix(sql[i:], "/*"):
			depth++
			i++
		case strings.HasPrefix(sql[i:], "*/"):
			depth--
			i++
			if depth == 0 {
				return i + 1
			}
		}
	}
	return len(sql)
}
