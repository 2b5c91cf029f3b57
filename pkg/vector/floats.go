package vector

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"unsafe"
)

// A syntaxError says where and why a text is not an array of numbers.
type syntaxError struct {
	Offset int    // bytes before what is refused
	Reason string // one line, lower case, what is wrong there
}

func (e *syntaxError) Error() string {
	return fmt.Sprintf("offset %d: %s", e.Offset, e.Reason)
}

// AppendFloats appends to dst the values of the JSON array of numbers that
// src begins with, and returns the number of bytes that the array takes, its ]
// included. What follows the array is not looked at.
//
// Each value is the float32 nearest to the decimal number, bit for bit what
// strconv.ParseFloat(s, 32) returns: a number too small for a float32 becomes
// zero, and -0 keeps its sign. Whatever is not a number of JSON's grammar is
// refused, null included, and so is a number too large for a float32. Then the
// error is a *syntaxError, n is its offset, and out is dst as it came.
func AppendFloats(dst []float32, src []byte) (out []float32, n int, err error) {
	if len(src) == 0 || src[0] != '[' {
		return dst, 0, &syntaxError{0, "not an array"}
	}
	out = dst
	p := skipBlanks(src, 1)
	if p < len(src) && src[p] == ']' {
		return out, p + 1, nil
	}
	// The kernel wants some bytes before its first value, so it has its first
	// turn at the third. It has its next one once out is turn values long:
	// soon after a value not to its taste, later where none was.
	turn := len(dst) + 2
	for {
		if kernels && len(out) >= turn && p >= kernelBefore && len(src)-p >= kernelLeast {
			count := len(out)
			out, p = appendKernel(out, src, p)
			if turn = len(out) + 4; len(out) == count {
				turn = len(out) + 32
			}
		}
		limit := math.MaxInt
		if kernels {
			limit = max(turn-len(out), 1)
		}
		count := len(out)
		if out, p = appendPlain(out, src, p, limit); len(out)-count == limit {
			continue
		}
		// One value in any form that JSON allows.
		p = skipBlanks(src, p)
		if p == len(src) {
			return dst, p, &syntaxError{p, "the array has no end"}
		}
		v, end, reason := parseNumber(src, p)
		if reason != "" {
			return dst, p, &syntaxError{p, reason}
		}
		out = append(out, v)
		p = skipBlanks(src, end)
		if p == len(src) {
			return dst, p, &syntaxError{p, "the array has no end"}
		}
		switch src[p] {
		case ',':
			p++
		case ']':
			return out, p + 1, nil
		default:
			return dst, p, &syntaxError{p, fmt.Sprintf("%q after a value, want a comma or ]", src[p])}
		}
	}
}

// skipBlanks returns the first place from p on that is not JSON white space.
func skipBlanks(src []byte, p int) int {
	for p < len(src) && (src[p] == ' ' || src[p] == '\n' || src[p] == '\t' || src[p] == '\r') {
		p++
	}
	return p
}

// The kernel reads a value's digits backwards from its comma, sixteen bytes
// at a time, and the commas ahead in blocks.
const (
	kernelBefore = 16  // bytes that it wants before its first value
	kernelLeast  = 128 // bytes from there on that make it worth a call
)

// appendKernel reads values in fours as appendPlain does, and stops before the
// first four with one that is not of that form. It wants kernelBefore bytes
// before p and more than none from there on.
func appendKernel(out []float32, src []byte, p int) ([]float32, int) {
	s := src[p-kernelBefore:]
	s = s[:min(len(s), 1<<30)] // its places are 32 bits wide
	for {
		if cap(out)-len(out) < 64 {
			out = slices.Grow(out, max(64, min(len(s)/16, 1<<12)))
		}
		free := out[len(out):cap(out)]
		gap := 0
		if s[kernelBefore] == ' ' {
			gap = 1
		}
		// It writes no more than len(free) values and reads no more than s.
		count, end := floats4(unsafe.SliceData(free), len(free), unsafe.SliceData(s), len(s), kernelBefore, gap)
		out = out[:len(out)+count]
		p += end - kernelBefore
		if len(free)-count >= 4 {
			return out, p
		}
		s = s[end-kernelBefore:]
	}
}

const (
	zeros = 0x3030303030303030 // '0' in each byte
	highs = 0x8080808080808080
	nines = 0x7676767676767676 // added to a byte above 9, reaches its high bit
)

// appendPlain reads up to limit values of the form that nearly all of an
// embedding have: 0. or -0. and 1 to 23 digits, one blank or none before, a
// comma behind. It returns the place of the first value that it did not read.
func appendPlain(out []float32, src []byte, p, limit int) ([]float32, int) {
	for ; limit > 0 && p+32 <= len(src); limit-- {
		q := p
		if src[q] == ' ' {
			q++
		}
		neg := 0 // the sign of a component is a coin toss: no branch on it
		if src[q] == '-' {
			neg = 1
		}
		q += neg
		w := src[q : q+26]
		if binary.LittleEndian.Uint16(w) != '0'|'.'<<8 {
			break
		}
		// Eight characters each, the first one lowest, as numbers where they are
		// digits. The lowest high bit of end is in the first that is not.
		a := binary.LittleEndian.Uint64(w[2:]) ^ zeros
		b := binary.LittleEndian.Uint64(w[10:]) ^ zeros
		endA := (a + nines | a) & highs
		endB := (b + nines | b) & highs
		var m uint64
		var n int
		switch {
		case endA == 0 && endB != 0:
			n = bits.TrailingZeros64(endB) >> 3
			m = eightDigits(a)*tenTo[n&7] + eightDigits(leading(b, n))
			n += 8
		case endA != 0:
			n = bits.TrailingZeros64(endA) >> 3
			if n == 0 {
				return out, p
			}
			m = eightDigits(leading(a, n))
		default:
			c := binary.LittleEndian.Uint64(w[18:]) ^ zeros
			endC := (c + nines | c) & highs
			if endC == 0 {
				return out, p
			}
			n = bits.TrailingZeros64(endC) >> 3
			m = eightDigits(a)*1e8 + eightDigits(b)
			if m >= 1e11*tenTo[(7-n)&7] { // more than 18 digits do not fit
				return out, p
			}
			m = m*tenTo[n&7] + eightDigits(leading(c, n))
			n += 16
		}
		if w[2+n] != ',' {
			break
		}
		f, ok := narrow(float64(int64(m)) * signedScale[(n|neg<<5)&63])
		if !ok {
			break
		}
		out = append(out, f)
		p = q + 3 + n
	}
	return out, p
}

// leading keeps the first n of eight digits, n < 8, with zeros before them.
func leading(x uint64, n int) uint64 { return x << ((56 - 8*n) & 63) << 8 }

// eightDigits returns the number written by the eight digits in x, whose lowest
// byte holds the first: pairs of them, then fours, then all.
func eightDigits(x uint64) uint64 {
	x = x * (1 + 10<<8) >> 8
	x = x & 0x00ff00ff00ff00ff * (1 + 100<<16) >> 16
	return x & 0x0000ffff0000ffff * (1 + 10000<<32) >> 32
}

// narrow rounds d, which is within four units in the last place of a decimal
// number and zero or in the range of normal float32s, to the float32 nearest to
// that number. It reports false where it cannot know which one that is.
//
// A float32 keeps all but the last 29 bits of a float64. Which way it rounds is
// decided by the side of the half-way point that those bits are on, and unless
// they are next to it, d and the number are on one side.
func narrow(d float64) (float32, bool) {
	const dropped, half, margin = 1<<29 - 1, 1 << 28, 4
	return float32(d), (math.Float64bits(d)-(half-margin))&dropped > 2*margin
}

// parseNumber reads the JSON number at p and returns its value and the place
// after it, or why there is none.
func parseNumber(src []byte, p int) (v float32, end int, reason string) {
	var (
		m      uint64 // the digits without leading zeros
		digits int    // how many they are
		exp    int
	)
	i := p
	if i < len(src) && src[i] == '-' {
		i++
	}
	start := i
	for ; i < len(src) && isDigit(src[i]); i++ {
		m = m*10 + uint64(src[i]-'0')
		if digits > 0 || src[i] != '0' {
			digits++
		}
	}
	if i == start || src[start] == '0' && i > start+1 {
		return 0, p, excerpt(src, p) + " is not a number"
	}
	if i < len(src) && src[i] == '.' {
		i++
		start = i
		for ; i < len(src) && isDigit(src[i]); i++ {
			m = m*10 + uint64(src[i]-'0')
			if digits > 0 || src[i] != '0' {
				digits++
			}
		}
		if i == start {
			return 0, p, excerpt(src, p) + " is not a number"
		}
		exp = start - i
	}
	if i < len(src) && src[i]|0x20 == 'e' {
		i++
		down := false
		if i < len(src) && (src[i] == '+' || src[i] == '-') {
			down = src[i] == '-'
			i++
		}
		start = i
		e := 0
		for ; i < len(src) && isDigit(src[i]); i++ {
			e = min(e*10+int(src[i]-'0'), 1<<20)
		}
		if i == start {
			return 0, p, excerpt(src, p) + " is not a number"
		}
		if down {
			e = -e
		}
		exp += e
	}
	if digits <= 19 && exp >= minPower && exp <= maxPower {
		d := float64(m) * tenPowers[exp-minPower]
		if m == 0 || d >= 0x1p-126 && d < 0x1p127 {
			if f, ok := narrow(d); ok {
				if src[p] == '-' {
					f = -f
				}
				return f, i, ""
			}
		}
	}
	f, err := strconv.ParseFloat(string(src[p:i]), 32)
	if err != nil {
		return 0, p, excerpt(src, p) + " does not fit a float32"
	}
	return float32(f), i, ""
}

func isDigit(c byte) bool { return c-'0' <= 9 }

// excerpt quotes the beginning of what stands at p.
func excerpt(src []byte, p int) string {
	i := p
	for i < len(src) && i < p+24 && src[i] != ',' && src[i] != ']' && src[i] > ' ' {
		i++
	}
	if i == p {
		if p == len(src) {
			return "the end"
		}
		i++
	}
	return strconv.Quote(string(src[p:i]))
}
