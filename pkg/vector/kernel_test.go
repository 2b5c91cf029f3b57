package vector

import (
	"bytes"
	"testing"
)

// The kernel must read the usual values of embeddings. If it did not, the
// results would be the same, but slower.
func TestKernelTakes(t *testing.T) {
	if !kernels {
		t.Skip("no kernels for this processor")
	}
	for _, c := range []struct {
		name string
		bits int
		sep  string
	}{
		{"float32", 32, ","},
		{"float32 with blanks", 32, ", "},
		{"float64", 64, ","},
	} {
		src := append(array(1, 3072, c.bits, c.sep), tail...)
		p, taken, turns := kernelBefore, 0, 0
		for ; len(src)-p > 200; turns++ {
			p += bytes.IndexByte(src[p:], ',') + 1
			var out []float32
			out, p = appendKernel(out, src, p)
			taken += len(out)
		}
		// It stops before each value with an exponent.
		if taken < 2900 || turns > 100 {
			t.Errorf("%s: the kernel took %d of 3072 values in %d turns", c.name, taken, turns)
		}
	}
}
