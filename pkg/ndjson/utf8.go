package ndjson

import (
	"encoding/binary"
	"unicode/utf8"
)

// badUTF8 returns the index of the first byte of b that is not part of valid
// UTF-8, or -1.
//
// It does the work of utf8.Valid with a state machine instead of branches: one
// table look-up and one shift for each byte. That is more than twice as fast if
// the lengths of the runes are unpredictable.
func badUTF8(b []byte) int {
	state, rest := uint64(between), b
	for len(rest) >= 64 {
		if state != between || !ascii64(rest) {
			state = step16(state, rest)
			state = step16(state, rest[16:])
			state = step16(state, rest[32:])
			state = step16(state, rest[48:])
		}
		rest = rest[64:]
	}
	for len(rest) >= 16 {
		state = step16(state, rest)
		rest = rest[16:]
	}
	for _, c := range rest {
		state = rows[c] >> state & 63
	}
	if state == between {
		return -1
	}
	i := 0
	for {
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
}

// invalidUTF8 returns the error for a byte at offset i of the line.
func invalidUTF8(i int, c byte) error {
	return syntax(i, "invalid UTF-8, byte %#02x: convert the text to UTF-8", c)
}

// ascii64 reports whether the next 64 bytes are ASCII.
func ascii64(b []byte) bool {
	all := uint64(0)
	for i := 0; i < 64; i += 16 {
		all |= binary.LittleEndian.Uint64(b[i:]) | binary.LittleEndian.Uint64(b[i+8:])
	}
	return all&highs == 0
}

// step16 is the state after the next 16 bytes.
func step16(state uint64, b []byte) uint64 {
	p := (*[16]byte)(b)
	s := rows[p[0]] >> (state & 63)
	s = rows[p[1]] >> (s & 63)
	s = rows[p[2]] >> (s & 63)
	s = rows[p[3]] >> (s & 63)
	s = rows[p[4]] >> (s & 63)
	s = rows[p[5]] >> (s & 63)
	s = rows[p[6]] >> (s & 63)
	s = rows[p[7]] >> (s & 63)
	s = rows[p[8]] >> (s & 63)
	s = rows[p[9]] >> (s & 63)
	s = rows[p[10]] >> (s & 63)
	s = rows[p[11]] >> (s & 63)
	s = rows[p[12]] >> (s & 63)
	s = rows[p[13]] >> (s & 63)
	s = rows[p[14]] >> (s & 63)
	s = rows[p[15]] >> (s & 63)
	return s & 63
}

// These are the states of the machine. Each is the number of bits by which a row
// is shifted: the low six bits of rows[byte] >> state are the next state. A row
// has room for ten states of six bits, and nine are needed.
const (
	between = 6 * iota // runes
	broken             // not UTF-8; the machine stays in this state
	want1              // one more byte of 80..BF
	want2              // two more bytes
	want3              // three more bytes
	afterE0            // A0..BF, then one more: smaller runes must use two bytes
	afterED            // 80..9F, then one more: larger ones are surrogates
	afterF0            // 90..BF, then two more: smaller runes must use three bytes
	afterF4            // 80..8F, then two more: larger ones are above U+10FFFF
	states             // number of bits used
)

var rows = func() (rows [256]uint64) {
	for c := range rows {
		for state := uint64(0); state < states; state += 6 {
			rows[c] |= follow(state, byte(c)) << state
		}
	}
	return rows
}()

// follow is the next state after byte c in state.
func follow(state uint64, c byte) uint64 {
	in := func(low, high byte) bool { return low <= c && c <= high }
	switch {
	case state == between && c < 0x80, state == want1 && in(0x80, 0xbf):
		return between
	case state == between && in(0xc2, 0xdf), state == want2 && in(0x80, 0xbf),
		state == afterE0 && in(0xa0, 0xbf), state == afterED && in(0x80, 0x9f):
		return want1
	case state == between && (in(0xe1, 0xec) || in(0xee, 0xef)), state == want3 && in(0x80, 0xbf),
		state == afterF0 && in(0x90, 0xbf), state == afterF4 && in(0x80, 0x8f):
		return want2
	case state == between && in(0xf1, 0xf3):
		return want3
	case state == between && c == 0xe0:
		return afterE0
	case state == between && c == 0xed:
		return afterED
	case state == between && c == 0xf0:
		return afterF0
	case state == between && c == 0xf4:
		return afterF4
	}
	return broken
}
