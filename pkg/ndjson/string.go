package ndjson

import (
	"encoding/binary"
	"math/bits"
)

// scanString checks the string whose opening quote is b[i-1] and returns the
// index behind its closing quote. That b is UTF-8 is checked elsewhere.
func scanString(b []byte, i int) (int, error) {
	open := i - 1
	for {
		i = plain(b, i)
		if i == len(b) {
			return 0, syntax(open, "a string that does not end")
		}
		switch c := b[i]; c {
		case '"':
			return i + 1, nil
		case '\\':
			if i+1 < len(b) && short[b[i+1]] {
				i += 2
				continue
			}
			n, problem := unicode(b[i:])
			if problem != "" {
				return 0, syntax(i, "%s", problem)
			}
			i += n
		default:
			return 0, syntax(i, "control character %#02x in a string", c)
		}
	}
}

// short has what may follow a backslash but for the u.
var short = [256]bool{'"': true, '\\': true, '/': true, 'b': true, 'f': true, 'n': true, 'r': true, 't': true}

// unicode returns the length of the \u escape at the start of b, that of both
// for a pair of surrogates, or what is wrong with it.
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

const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// plain returns the index of the first byte from i on that is a quote, a
// backslash or a control character; len(b) where there is none.
func plain(b []byte, i int) int {
	for ; len(b)-i >= 8; i += 8 {
		if hit := specials(binary.LittleEndian.Uint64(b[i:])); hit != 0 {
			return i + bits.TrailingZeros64(hit)/8
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c == '"' || c == '\\' || c < ' ' {
			return i
		}
	}
	return i
}

// specials looks at eight bytes at once. The lowest bit set in what it
// returns is in the first byte that is a quote, a backslash or a control
// character: for these, and for no other byte below 0x80, a subtraction
// reaches the high bit (x^2 is at most 0x20 for the quote and for control
// characters). Only the bytes above a hit can be spoilt by its borrow, and the
// first hit is what counts.
func specials(w uint64) uint64 {
	return (((w ^ 2*ones) - 0x21*ones) | ((w ^ '\\'*ones) - ones)) &^ w & highs
}
