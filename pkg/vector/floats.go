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
	Offset int    // number of bytes before the fault
	Reason string // what is wrong there: one line in lower case
}

func (e *syntaxError) Error() string {
	return fmt.Sprintf("offset %d: %s", e.Offset, e.Reason)
}

// AppendFloats appends to dst the values of the JSON array of numbers at the
// start of src, and returns the number of bytes of the array, including its ].
// What follows the array is not examined.
//
// Each value is the float32 nearest to the decimal number, bit for bit what
// strconv.ParseFloat(s, 32) returns: a number that is too small for a float32
// becomes zero, and -0 keeps its sign. Everything that is not a JSON number is
// refused, including null, and so is a number that is too large for a float32.
// Then the error is a *syntaxError, n is its offset, and out is dst unchanged.
func AppendFloats(dst []float32, src []byte) (out []float32, n int, err error) {
	if len(src) == 0 || src[0] != '[' {
		return dst, 0, &syntaxError{0, "not an array"}
	}
	out = dst
	p := skipBlanks(src, 1)
	if p < len(src) && src[p] == ']' {
		return out, p + 1, nil
	}
	// The kernel needs some bytes before its first value, so it is first tried at
	// the third value. It is tried again when out has turn values: soon if it
	// stopped at one unusual value, and later if it read no value.
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
		// Read one value in any form that JSON allows.
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
			return dst, p, &syntaxError{p, fmt.Sprintf("%q after a value, where a comma or ] was expected", src[p])}
		}
	}
}

// skipBlanks returns the first index from p on that is not JSON white space.
func skipBlanks(src []byte, p int) int {
	for p < len(src) && (src[p] == ' ' || src[p] == '\n' || src[p] == '\t' || src[p] == '\r') {
		p++
	}
	return p
}

// The kernel reads the digits of a value backwards from its comma, sixteen bytes
// at a time, and finds the next commas in blocks.
const (
	kernelBefore = 16  // bytes that it needs before its first value
	kernelLeast  = 128 // with fewer bytes from there on a call is not worth it
)

// appendKernel reads values in groups of four, in the form that appendPlain
// reads, and stops before the first group with a value of another form. It needs
// kernelBefore bytes before p, and at least one from p on.
func appendKernel(out []float32, src []byte, p int) ([]float32, int) {
	s := src[p-kernelBefore:]
	s = s[:min(len(s), 1<<30)] // it has 32-bit offsets
	for {
		if cap(out)-len(out) < 64 {
			out = slices.Grow(out, max(64, min(len(s)/16, 1<<12)))
		}
		free := out[len(out):cap(out)]
		gap := 0
		if s[kernelBefore] == ' ' {
			gap = 1
		}
		// floats4 writes at most len(free) values and reads only s.
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

// appendPlain reads up to limit values of the form that nearly all values of an
// embedding have: 0. or -0. with 1 to 23 digits, at most one blank before and a
// comma after. It returns the index of the first value that it did not read.
func appendPlain(out []float32, src []byte, p, limit int) ([]float32, int) {
	for ; limit > 0 && p+32 <= len(src); limit-- {
		q := p
		if src[q] == ' ' {
			q++
		}
		neg := 0 // the sign of a component is random, so there is no branch on it
		if src[q] == '-' {
			neg = 1
		}
		q += neg
		w := src[q : q+26]
		if binary.LittleEndian.Uint16(w) != '0'|'.'<<8 {
			break
		}
		// Each word holds eight characters, the first in the lowest byte. Digits
		// become numbers. The lowest high bit of end is in the first byte that is
		// not a digit.
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

// eightDigits returns the number with the eight digits in x. The lowest byte is
// the first digit. It combines pairs of digits, then fours, then all.
func eightDigits(x uint64) uint64 {
	x = x * (1 + 10<<8) >> 8
	x = x & 0x00ff00ff00ff00ff * (1 + 100<<16) >> 16
	return x & 0x0000ffff0000ffff * (1 + 10000<<32) >> 32
}

// narrow rounds d to the float32 nearest to a decimal number. d must be within
// four units in the last place of that number, and zero or in the range of
// normal float32s. narrow returns false if it cannot decide which float32 is the
// nearest.
//
// A float32 has 29 bits less than a float64. The direction of the rounding
// depends on which side of the half-way point these bits are. d and the number
// are on the same side, unless the bits are next to that point.
func narrow(d float64) (float32, bool) {
	const dropped, half, margin = 1<<29 - 1, 1 << 28, 4
	return float32(d), (math.Float64bits(d)-(half-margin))&dropped > 2*margin
}

// parseNumber reads the JSON number at p and returns its value and the index
// after it. If there is no number, reason says why.
func parseNumber(src []byte, p int) (v float32, end int, reason string) {
	var (
		m      uint64 // the digits without leading zeros
		digits int    // number of digits in m
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

// excerpt quotes the beginning of src[p:].
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
