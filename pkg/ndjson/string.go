package ndjson

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string. It escapes only the quote, the
// backslash and control characters, not U+2028 or <. s must be valid UTF-8,
// which is not checked.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; ; i++ {
		for ; len(s)-i >= 8; i += 8 {
			w := uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 | uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
			if hit := specials(w); hit != 0 {
				i += bits.TrailingZeros64(hit) / 8
				break
			}
		}
		if i == len(s) {
			break
		}
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' { // one of the last seven bytes
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

// Unescape resolves the escapes of a JSON string. inner is what is between its
// quotes, and must have been checked by a [Walker]. If there is no escape, the
// result is inner itself.
func Unescape(inner []byte) []byte {
	n := bytes.IndexByte(inner, '\\')
	if n < 0 {
		return inner
	}
	dst := make([]byte, 0, len(inner))
	for ; n >= 0; n = bytes.IndexByte(inner, '\\') {
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
		dst = append(dst, c) // the other bytes stand for themselves
	}
	return append(dst, inner...)
}

// scanString checks the string whose opening quote is b[i-1], and returns the
// index after its closing quote. plain is true if the string has no escapes.
func scanString(b []byte, i int) (end int, plain bool, err error) {
	start := i
	plain = true
	var seen uint64 // the OR of the string's bytes, and of up to seven bytes after it
	for {
		for ; len(b)-i >= 8; i += 8 {
			w := binary.LittleEndian.Uint64(b[i:])
			seen |= w
			if hit := specials(w); hit != 0 {
				i += bits.TrailingZeros64(hit) / 8
				break
			}
		}
		if i == len(b) {
			return 0, false, syntax(start-1, "a string that does not end")
		}
		switch c := b[i]; {
		case c == '"':
			if seen&highs != 0 {
				if at := badUTF8(b[start:i]); at >= 0 {
					return 0, false, invalidUTF8(start+at, b[start+at])
				}
			}
			return i + 1, plain, nil
		case c == '\\':
			plain = false
			if i+1 < len(b) && short[b[i+1]] {
				i += 2
				continue
			}
			n, problem := unicode(b[i:])
			if problem != "" {
				return 0, false, syntax(i, "%s", problem)
			}
			i += n
		case c < ' ':
			return 0, false, syntax(i, "control character %#02x in a string", c)
		default: // one of the line's last seven bytes
			seen |= uint64(c)
			i++
		}
	}
}

// short has the bytes that may follow a backslash, except u.
var short = [256]bool{'"': true, '\\': true, '/': true, 'b': true, 'f': true, 'n': true, 'r': true, 't': true}

// unicode returns the length of the \u escape at the start of b, or of both
// escapes of a surrogate pair. If the escape is wrong, problem says why.
func unicode(b []byte) (n int, problem string) {
	if len(b) < 2 || b[1] != 'u' {
		return 0, "unknown escape"
	}
	r, ok := hex4(b[2:])
	if !ok {
		return 0, `\u without four hex digits`
	}
	if r < 0xd800 || r > 0xdfff {
		return 6, ""
	}
	if r < 0xdc00 && len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
		if low, ok := hex4(b[8:]); ok && 0xdc00 <= low && low <= 0xdfff {
			return 12, ""
		}
	}
	return 0, "half a surrogate pair"
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

const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// specials examines eight bytes at once. The lowest bit set in its result is in
// the first byte that is a quote, a backslash or a control character. For these
// bytes, and for no other byte below 0x80, a subtraction sets the high bit (x^2
// is at most 0x20 for the quote and for control characters). The borrow of a
// subtraction can spoil only the bytes above a hit, and only the first hit
// counts.
func specials(w uint64) uint64 {
	return (((w ^ 2*ones) - 0x21*ones) | ((w ^ '\\'*ones) - ones)) &^ w & highs
}
