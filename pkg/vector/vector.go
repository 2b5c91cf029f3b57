// Package vector converts vectors of float32 between their forms: the JSON array
// of numbers that Google writes, the little-endian bytes in records and in the
// database, and the base64 of these bytes.
//
// It is the hot path of the suite. If the processor has AVX2, assembly kernels
// handle arrays and base64. The Go code is the reference. It does the same on
// all other processors and with the build tag purego, and continues when a
// kernel stops. README.md says what the kernels gain, and how to delete them.
package vector

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"slices"
	"unsafe"
)

// kernels says whether the assembly is used. Tests switch it off.
var kernels = haveKernels()

// appendBytes appends the values to dst, four bytes each, little-endian.
func appendBytes(dst []byte, v []float32) []byte {
	n := len(dst)
	dst = slices.Grow(dst, 4*len(v))[:n+4*len(v)]
	b := dst[n:]
	for i, x := range v {
		binary.LittleEndian.PutUint32(b[4*i:4*i+4], math.Float32bits(x))
	}
	return dst
}

// Normalize scales v to unit length (L2) in place, and reports whether it could.
// A vector of zeros, or with a value that is not finite, is not changed.
func Normalize(v []float32) (ok bool) {
	// In a float64, the squares of float32s can neither overflow nor become zero.
	sum := squares(v)
	if !(sum > 0 && sum <= math.MaxFloat64) {
		return false
	}
	scale := 1 / math.Sqrt(sum)
	for i, x := range v {
		v[i] = float32(float64(x) * scale)
	}
	return true
}

// Norm returns the length (L2) of v. It is not finite if a value is not finite, and
// 0 only if all values are 0.
func Norm(v []float32) float64 { return math.Sqrt(squares(v)) }

// Hash returns a hash of the bits of v, the same for equal vectors in one process.
func Hash(v []float32) uint64 {
	return maphash.Bytes(seed, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v)))
}

var seed = maphash.MakeSeed()

// squares returns the sum of the squares. It uses four sums, because each
// addition waits for the previous one. The conversions of products prevent fused
// operations, so that every processor gets the same result.
func squares(v []float32) float64 {
	square := func(x float32) float64 { return float64(float64(x) * float64(x)) }
	var a, b, c, d float64
	for ; len(v) >= 4; v = v[4:] {
		a += square(v[0])
		b += square(v[1])
		c += square(v[2])
		d += square(v[3])
	}
	for _, x := range v {
		a += square(x)
	}
	return a + b + (c + d)
}

// Finite reports whether v holds neither a NaN nor an infinity.
func Finite(v []float32) bool {
	// Only the largest exponent reaches the sign bit.
	var reached uint32
	for _, x := range v {
		reached |= math.Float32bits(x)&0x7fffffff + 0x00800000
	}
	return reached>>31 == 0
}

// Cosine returns the cosine of the angle between two vectors of the same length.
// It is NaN if one of them has no direction: only zeros, or a value that is not
// finite.
func Cosine(a, b []float32) float64 {
	var ab float64
	for i, x := range a {
		ab += float64(float64(x) * float64(b[i]))
	}
	return ab / math.Sqrt(squares(a)*squares(b))
}
