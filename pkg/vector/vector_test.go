package vector

import (
	"encoding/hex"
	"math"
	"testing"
)

// packed is Python's struct.pack('<4f', 0.5, -1.25, 3.1415927, 1e-40).
const packed = "0000003f" + "0000a0bf" + "db0f4940" + "c2160100"

var (
	values = []float32{0.5, -1.25, 3.1415927, 1e-40}
	inf    = float32(math.Inf(1))
	nan    = float32(math.NaN())
)

func TestAppendBytes(t *testing.T) {
	if got := hex.EncodeToString(appendBytes([]byte{1, 2}, values)); got != "0102"+packed {
		t.Errorf("got %s, want 0102%s", got, packed)
	}
	if got := appendBytes(nil, nil); len(got) != 0 {
		t.Errorf("got %x of no values", got)
	}
}

func TestNormalize(t *testing.T) {
	for _, c := range []struct {
		v, want []float32
		ok      bool
	}{
		{[]float32{3, 4}, []float32{0.6, 0.8}, true},
		{[]float32{-2}, []float32{-1}, true},
		{[]float32{1, 1, 1, 1, 1, 1, 1, 1, 1}, []float32{1. / 3, 1. / 3, 1. / 3, 1. / 3, 1. / 3, 1. / 3, 1. / 3, 1. / 3, 1. / 3}, true},
		{[]float32{math.MaxFloat32, 0, 0, 0, math.MaxFloat32}, []float32{math.Sqrt2 / 2, 0, 0, 0, math.Sqrt2 / 2}, true},
		{[]float32{0, 0, 0, 0, math.SmallestNonzeroFloat32}, []float32{0, 0, 0, 0, 1}, true},
		{[]float32{0, 0}, []float32{0, 0}, false},
		{nil, nil, false},
		{[]float32{1, nan}, []float32{1, nan}, false},
		{[]float32{1, inf, 2, 3, 4}, []float32{1, inf, 2, 3, 4}, false},
		{[]float32{1, -inf, inf}, []float32{1, -inf, inf}, false},
	} {
		got := append([]float32(nil), c.v...)
		if ok := Normalize(got); ok != c.ok || !same(got, c.want) {
			t.Errorf("%v: got %v, %t; want %v, %t", c.v, got, ok, c.want, c.ok)
		}
	}
}

func TestFinite(t *testing.T) {
	for _, c := range []struct {
		v    []float32
		want bool
	}{
		{nil, true},
		{values, true},
		{[]float32{math.MaxFloat32, -math.MaxFloat32, 0, math.SmallestNonzeroFloat32}, true},
		{[]float32{0, nan, 0}, false},
		{[]float32{inf}, false},
		{[]float32{1, 2, 3, 4, -inf}, false},
		{[]float32{math.Float32frombits(0x7f800001)}, false},
	} {
		if got := Finite(c.v); got != c.want {
			t.Errorf("%v: got %t, want %t", c.v, got, c.want)
		}
	}
}

func TestNorm(t *testing.T) {
	for _, c := range []struct {
		v    []float32
		want float64
	}{
		{nil, 0},
		{[]float32{0, 0, 0, 0, 0}, 0},
		{[]float32{3, 0, 0, 0, -4}, 5},
		{[]float32{0, math.SmallestNonzeroFloat32}, math.SmallestNonzeroFloat32},
		{[]float32{math.MaxFloat32, math.MaxFloat32}, math.MaxFloat32 * math.Sqrt2},
	} {
		if got := Norm(c.v); got != c.want {
			t.Errorf("%v: got %v, want %v", c.v, got, c.want)
		}
	}
	for _, x := range []float32{inf, -inf, nan} {
		if got := Norm([]float32{1, 2, 3, 4, x}); !math.IsNaN(got) && !math.IsInf(got, 1) {
			t.Errorf("%v: got %v", x, got)
		}
	}
}

func TestHash(t *testing.T) {
	v := []float32{1, 2, 3, 4, 5}
	if Hash(v) != Hash(append([]float32(nil), v...)) {
		t.Error("equal vectors have different hashes")
	}
	for i := range v {
		other := append([]float32(nil), v...)
		other[i] = math.Nextafter32(other[i], inf)
		if Hash(v) == Hash(other) || Hash(v) == Hash(v[:i]) {
			t.Errorf("different vectors have the same hash: %v, %v", v, other)
		}
	}
}

func TestCosine(t *testing.T) {
	for _, c := range []struct {
		a, b []float32
		want float64
	}{
		{[]float32{1, 0}, []float32{0, 1}, 0},
		{[]float32{3, 4}, []float32{6, 8}, 1},
		{[]float32{3, 4, 0, 0, 0}, []float32{-3, -4, 0, 0, 0}, -1},
		{[]float32{1, 0, 0, 0, 1}, []float32{1, 0, 0, 0, 0}, math.Sqrt2 / 2},
	} {
		if got := Cosine(c.a, c.b); math.Abs(got-c.want) > 1e-15 {
			t.Errorf("%v, %v: got %v, want %v", c.a, c.b, got, c.want)
		}
	}
	for _, v := range [][]float32{{0, 0}, {nan, 1}, {inf, 1}} {
		if got := Cosine(v, []float32{1, 1}); !math.IsNaN(got) {
			t.Errorf("%v: got %v, want NaN", v, got)
		}
	}
}
