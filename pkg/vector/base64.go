package vector

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"unsafe"
)

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

var (
	// pairs holds, for twelve bits, the two characters that encode them, with the
	// first one in the low byte.
	pairs [1 << 12]uint16
	// sextets holds, for the character at each place of four, its bits at their
	// place in three little-endian bytes, and notBase64 for all other characters.
	sextets [4][256]uint32
)

const notBase64 = 1 << 31

func init() {
	for i := range pairs {
		pairs[i] = uint16(alphabet[i>>6]) | uint16(alphabet[i&63])<<8
	}
	for place := range sextets {
		for c := range sextets[place] {
			sextets[place][c] = notBase64
		}
	}
	for i, c := range []byte(alphabet) {
		v := uint32(i)
		sextets[0][c] = v << 2
		sextets[1][c] = v>>4 | v&15<<12
		sextets[2][c] = v>>2<<8 | v&3<<22
		sextets[3][c] = v << 16
	}
}

// AppendBase64 appends to dst the base64 of what appendBytes would append, as
// encoding/base64.StdEncoding writes it.
func AppendBase64(dst []byte, v []float32) []byte {
	n := len(dst)
	size := base64.StdEncoding.EncodedLen(4 * len(v))
	dst = slices.Grow(dst, size)[:n+size]
	b := dst[n:]
	if kernels && len(v) > 6 {
		// The memory of float32 values on a little-endian machine has the bytes to
		// encode. The kernel reads beyond the last 24 bytes, so at least one value
		// must follow them: six values for each of n steps are fewer than len(v).
		// 32 characters for each step are fewer than len(b).
		n := (len(v) - 1) / 6
		encode24(unsafe.SliceData(b), unsafe.Pointer(unsafe.SliceData(v)), n)
		v, b = v[6*n:], b[32*n:]
	}
	for len(v) >= 3 {
		x := bits.ReverseBytes32(math.Float32bits(v[0]))
		y := bits.ReverseBytes32(math.Float32bits(v[1]))
		z := bits.ReverseBytes32(math.Float32bits(v[2]))
		binary.LittleEndian.PutUint64(b, eightChars(uint64(x)<<16|uint64(y)>>16))
		binary.LittleEndian.PutUint64(b[8:], eightChars(uint64(y)&0xffff<<32|uint64(z)))
		v, b = v[3:], b[16:]
	}
	if len(v) > 0 {
		var rest [8]byte
		base64.StdEncoding.Encode(b, appendBytes(rest[:0], v))
	}
	return dst
}

// eightChars encodes 48 bits. The highest bits come first, in the lowest byte.
func eightChars(x uint64) uint64 {
	return uint64(pairs[x>>36&0xfff]) | uint64(pairs[x>>24&0xfff])<<16 |
		uint64(pairs[x>>12&0xfff])<<32 | uint64(pairs[x&0xfff])<<48
}

// DecodeBase64 appends to dst the values that AppendBase64 wrote. It refuses an
// incomplete value, and whatever StdEncoding.Strict does not write: other
// characters, including line breaks, missing padding, and padding bits that are
// not zero. Then it returns dst unchanged.
func DecodeBase64(dst []float32, src []byte) ([]float32, error) {
	out := slices.Grow(dst, len(src)/16*3+3)
	b := src
	for len(b) >= 16 {
		// Four characters are three bytes. Twelve bytes are three values.
		w := sextets[0][b[0]] | sextets[1][b[1]] | sextets[2][b[2]] | sextets[3][b[3]]
		x := sextets[0][b[4]] | sextets[1][b[5]] | sextets[2][b[6]] | sextets[3][b[7]]
		y := sextets[0][b[8]] | sextets[1][b[9]] | sextets[2][b[10]] | sextets[3][b[11]]
		z := sextets[0][b[12]] | sextets[1][b[13]] | sextets[2][b[14]] | sextets[3][b[15]]
		if (w|x|y|z)&notBase64 != 0 {
			if len(b) == 16 {
				break // there may be padding
			}
			return dst, errNotBase64
		}
		n := len(out)
		out = out[:n+3] // there is room
		values := out[n : n+3 : n+3]
		values[0] = math.Float32frombits(w | x<<24)
		values[1] = math.Float32frombits(x>>8 | y<<16)
		values[2] = math.Float32frombits(y>>16 | z<<8)
		b = b[16:]
	}
	if len(b) == 0 {
		return out, nil
	}
	var rest [12]byte
	n, err := base64.StdEncoding.Strict().Decode(rest[:], b)
	if err != nil || bytes.ContainsAny(b, "\r\n") {
		return dst, errNotBase64
	}
	if n%4 != 0 {
		return dst, fmt.Errorf("%d bytes are not whole float32 values", (len(src)-len(b))/4*3+n)
	}
	for i := 0; i < n; i += 4 {
		out = append(out, math.Float32frombits(binary.LittleEndian.Uint32(rest[i:])))
	}
	return out, nil
}

var errNotBase64 = errors.New("not base64 as StdEncoding writes it")
