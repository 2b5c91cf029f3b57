package store

import (
	"crypto/rand"
	"encoding/binary"
	"time"
)

// batchNames makes n new names of batches: a b and a ULID each. The names sort
// by the time at which they were made.
func batchNames(n int) []string {
	var b [16]byte
	rand.Read(b[:])
	b[8] &= 0x7f // leaves room to count up
	binary.BigEndian.PutUint64(b[:], uint64(time.Now().UnixMilli())<<16|uint64(binary.BigEndian.Uint16(b[6:])))
	low := binary.BigEndian.Uint64(b[8:])
	names := make([]string, n)
	for i := range names {
		binary.BigEndian.PutUint64(b[8:], low+uint64(i))
		names[i] = "b" + crockford(b)
	}
	return names
}

// crockford writes 128 bits as 26 characters of Crockford's base 32.
func crockford(b [16]byte) string {
	const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	hi, lo := binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])
	var out [26]byte
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = digits[lo&31]
		lo, hi = lo>>5|hi<<59, hi>>5
	}
	return string(out[:])
}
