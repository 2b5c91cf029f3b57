package ndjson

import (
	"bytes"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"

	gojson "github.com/goccy/go-json"
)

// maxDepth is how deep arrays and objects may nest, the object itself
// included. Records nest four deep.
const maxDepth = 64

// Object walks over the members of the JSON object that is the whole of line
// and calls f with each one's name, decoded, and value, raw: the token as it
// stands, without space around it. Both are valid as long as line is; neither
// may be written to. An error of f ends the walk and is returned as it is.
//
// The line is held to the letter of RFC 8259, and to more: UTF-8 must be
// valid, surrogates paired, no name twice in the object (in nested ones it
// may be), nesting no deeper than 64, and nothing may follow. A value is
// checked before f sees it, what follows it is not yet: f must keep what it
// did to itself until Object has returned nil.
//
// Names are compared as they are, case and all. Other errors name the column,
// in bytes from 1.
func Object(line []byte, f func(name, value []byte) error) error {
	if err := checkUTF8(line); err != nil {
		return err
	}
	i := space(line, 0)
	if i == len(line) || line[i] != '{' {
		return syntax(i, "not a JSON object")
	}
	var few [16][]byte
	names := few[:0] // linear search: records have a handful of members
	var many map[string]bool
	i = space(line, i+1)
	if i < len(line) && line[i] == '}' {
		return rest(line, i+1)
	}
	for {
		at := i
		end, err := name(line, i)
		if err != nil {
			return err
		}
		key := line[at+1 : end-1]
		if bytes.IndexByte(key, '\\') >= 0 {
			key = unescape(make([]byte, 0, len(key)), key)
		}
		if many == nil {
			for _, other := range names {
				if string(other) == string(key) {
					return syntax(at, "member %.100q twice in one object", key)
				}
			}
			if names = append(names, key); len(names) == len(few) {
				many = make(map[string]bool)
				for _, other := range names {
					many[string(other)] = true
				}
			}
		} else if many[string(key)] {
			return syntax(at, "member %.100q twice in one object", key)
		} else {
			many[string(key)] = true
		}
		if i, err = colon(line, end); err != nil {
			return err
		}
		if end, err = value(line, i, 1); err != nil {
			return err
		}
		if err := f(key, line[i:end:end]); err != nil {
			return err
		}
		i = space(line, end)
		switch {
		case i < len(line) && line[i] == ',':
			i = space(line, i+1)
		case i < len(line) && line[i] == '}':
			return rest(line, i+1)
		default:
			return unexpected(line, i, "',' or '}'")
		}
	}
}

// String decodes a raw token that must be a JSON string. A surrogate without
// its partner is an error, not U+FFFD.
func String(tok []byte) (string, error) {
	if len(tok) == 0 || tok[0] != '"' {
		return "", fmt.Errorf("want a string, have %.20s", tok)
	}
	if err := checkUTF8(tok); err != nil {
		return "", err
	}
	end, err := scanString(tok, 1)
	if err != nil {
		return "", err
	}
	if end != len(tok) {
		return "", syntax(end, "text behind the string")
	}
	inner := tok[1 : end-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), nil
	}
	return string(unescape(make([]byte, 0, len(inner)), inner)), nil
}

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string. Only the quote, the backslash and
// control characters are escaped; everything else, U+2028 and < too, stands
// as it is. s must be valid UTF-8: this is not checked.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// Marshal is encoding/json's, faster, and with <, > and & as they are.
func Marshal(v any) ([]byte, error) {
	return gojson.MarshalWithOption(v, gojson.DisableHTMLEscape())
}

// Unmarshal decodes one object into v as encoding/json would, but only after
// Object's checks: duplicate names, broken UTF-8 and text behind the object
// are errors. Three traps of encoding/json remain, and a reader that they
// would harm uses Object: a name that differs from the field's only in case
// matches, null leaves a field as it was, and so does a missing member, so v
// must be zero.
func Unmarshal(line []byte, v any) error {
	if err := Object(line, func(_, _ []byte) error { return nil }); err != nil {
		return err
	}
	return gojson.Unmarshal(line, v)
}

// syntax returns the error for what is wrong at line[i].
func syntax(i int, format string, args ...any) error {
	return fmt.Errorf("column %d: %w", i+1, fmt.Errorf(format, args...))
}

// unexpected returns the error for line[i] where want was expected.
func unexpected(line []byte, i int, want string) error {
	if i >= len(line) {
		return syntax(i, "the line ends where %s was expected", want)
	}
	r, _ := utf8.DecodeRune(line[i:])
	return syntax(i, "%q where %s was expected", r, want)
}

// space returns the index of the first byte from i on that is not white space.
func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// rest checks that only white space follows.
func rest(line []byte, i int) error {
	if i = space(line, i); i < len(line) {
		return syntax(i, "text behind the object")
	}
	return nil
}

// name checks the member name that starts at line[i] and returns its end.
func name(line []byte, i int) (int, error) {
	if i >= len(line) || line[i] != '"' {
		return 0, unexpected(line, i, "a member name")
	}
	return scanString(line, i+1)
}

// colon returns where the value behind the colon starts.
func colon(line []byte, i int) (int, error) {
	i = space(line, i)
	if i >= len(line) || line[i] != ':' {
		return 0, unexpected(line, i, "':'")
	}
	return space(line, i+1), nil
}

// value checks the value that starts at b[i], inside depth objects and
// arrays, and returns its end.
func value(b []byte, i, depth int) (int, error) {
	if i >= len(b) {
		return 0, unexpected(b, i, "a value")
	}
	switch c := b[i]; c {
	case '"':
		return scanString(b, i+1)
	case 't':
		return literal(b, i, "true")
	case 'f':
		return literal(b, i, "false")
	case 'n':
		return literal(b, i, "null")
	case '[', '{':
		if depth == maxDepth {
			return 0, syntax(i, "nested deeper than %d", maxDepth)
		}
		return nested(b, i, depth+1)
	default:
		if c == '-' || '0' <= c && c <= '9' {
			return number(b, i)
		}
		return 0, unexpected(b, i, "a value")
	}
}

// nested checks the array or object that starts at b[i].
func nested(b []byte, i, depth int) (int, error) {
	object, closing, want := b[i] == '{', byte(']'), "',' or ']'"
	if object {
		closing, want = '}', "',' or '}'"
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == closing {
		return i + 1, nil
	}
	for {
		var err error
		if object {
			if i, err = name(b, i); err != nil {
				return 0, err
			}
			if i, err = colon(b, i); err != nil {
				return 0, err
			}
		}
		if i, err = value(b, i, depth); err != nil {
			return 0, err
		}
		i = space(b, i)
		switch {
		case i < len(b) && b[i] == ',':
			i = space(b, i+1)
		case i < len(b) && b[i] == closing:
			return i + 1, nil
		default:
			return 0, unexpected(b, i, want)
		}
	}
}

func literal(b []byte, i int, word string) (int, error) {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return 0, unexpected(b, i, "a value")
	}
	return i + len(word), nil
}

// number checks the number that starts at b[i] with a digit or a minus sign.
func number(b []byte, i int) (int, error) {
	if b[i] == '-' {
		i++
	}
	end := digits(b, i)
	if end == i {
		return 0, unexpected(b, i, "a digit")
	}
	if b[i] == '0' && end > i+1 {
		return 0, syntax(i, "a number with a leading zero")
	}
	i = end
	if i < len(b) && b[i] == '.' {
		i++
		if end = digits(b, i); end == i {
			return 0, unexpected(b, i, "a digit")
		}
		i = end
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if end = digits(b, i); end == i {
			return 0, unexpected(b, i, "a digit")
		}
		i = end
	}
	return i, nil
}

func digits(b []byte, i int) int {
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	return i
}

// unescape appends what the inside of a checked string token stands for.
func unescape(dst, inner []byte) []byte {
	for {
		n := bytes.IndexByte(inner, '\\')
		if n < 0 {
			return append(dst, inner...)
		}
		dst = append(dst, inner[:n]...)
		c := inner[n+1]
		inner = inner[n+2:]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r, _ := hex4(inner)
			inner = inner[4:]
			if utf16.IsSurrogate(r) {
				low, _ := hex4(inner[2:])
				inner = inner[6:]
				r = utf16.DecodeRune(r, low)
			}
			dst = utf8.AppendRune(dst, r)
			continue
		}
		dst = append(dst, c) // the others stand for themselves
	}
}

// hex4 reads the four hex digits at the start of b.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
