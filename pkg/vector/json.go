package vector

import (
	"math"
	"math/bits"
	"slices"
	"strconv"
)

// AppendJSON appends the values as a JSON array of numbers. Each number has the fewest
// digits that give the same float32 again, bit for bit, and is written as
// encoding/json writes it. The values must be finite.
func AppendJSON(dst []byte, v []float32) []byte {
	dst = append(dst, '[')
	for i, f := range v {
		dst = slices.Grow(dst, 2+longestNumber)
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendNumber(dst, f)
	}
	return append(dst, ']')
}

// longestNumber is the length of the longest number that appendNumber writes itself:
// -0. with 5 zeros and 9 digits.
const longestNumber = 17

// appendNumber appends a number. It finds the digits by the algorithm Schubfach (Raffaele
// Giulietti, The Schubfach way to render doubles), which needs no approximation here:
// all products fit in 128 bits. There must be room for longestNumber bytes.
func appendNumber(dst []byte, f float32) []byte {
	word := math.Float32bits(f)
	abs, fraction := math.Float32frombits(word&^(1<<31)), uint64(word&(1<<23-1))
	if !(abs >= 1e-6 && abs < 1e6) || fraction == 0 {
		return appendUnusual(dst, f)
	}
	if f < 0 {
		dst = append(dst, '-')
	}
	// f is c × 2^-shift, and 10^-n is the greatest power of ten that is not above
	// 2^-shift. So f × 10^n has 7 to 9 digits before its point.
	c, shift := 1<<23|fraction, uint(150-word>>23&0xff)
	n := (shift*1262611 + (1<<22 - 1)) >> 22
	// Four times f × 10^n, and the ends of the interval in which a number becomes f.
	// The ends belong to it if c is even.
	lower := scaled(4*c-2, n, shift) + c&1
	exact := scaled(4*c, n, shift)
	upper := scaled(4*c+2, n, shift) - c&1
	digits := exact / 4
	if short := digits / 10; lower <= 40*short != (40*short+40 <= upper) {
		if 40*short+40 <= upper {
			short++
		}
		digits = short
		n--
	} else if below, above := lower <= 4*digits, 4*digits+4 <= upper; below != above {
		if above {
			digits++
		}
	} else if middle := 4*digits + 2; exact > middle || exact == middle && digits&1 == 1 {
		digits++
	}
	for n > 0 && digits%10 == 0 {
		digits /= 10
		n--
	}
	if abs < 1 {
		dst = append(dst, '0')
	} else {
		whole := digits / tens[n]
		dst = strconv.AppendUint(dst, whole, 10)
		digits -= whole * tens[n]
	}
	if n == 0 {
		return dst
	}
	dst = append(dst, '.')
	start := len(dst)
	dst = dst[:start+int(n)]
	i := len(dst)
	for ; i >= start+2; i -= 2 {
		pair := digits % 100
		digits /= 100
		dst[i-2], dst[i-1] = byte('0'+pair/10), byte('0'+pair%10)
	}
	if i > start {
		dst[start] = byte('0' + digits)
	}
	return dst
}

// tens holds the powers of ten.
var tens = func() (p [16]uint64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = 10 * p[i-1]
	}
	return p
}()

// scaled returns m × 10^n × 2^-shift. If that is not a whole number, the result is the
// nearest odd number, so that a comparison with an even one is right.
func scaled(m uint64, n, shift uint) uint64 {
	high, low := bits.Mul64(m, tens[n])
	y := high<<(64-shift) | low>>shift
	if low<<(64-shift) != 0 {
		y |= 1
	}
	return y
}

// appendUnusual appends a number that is a power of two, very small or large.
func appendUnusual(dst []byte, f float32) []byte {
	format := byte('f')
	if abs := float32(math.Abs(float64(f))); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	dst = strconv.AppendFloat(dst, float64(f), format, -1, 32)
	if n := len(dst); format == 'e' && n >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
		dst[n-2] = dst[n-1] // e-09 is e-9
		dst = dst[:n-1]
	}
	return dst
}
