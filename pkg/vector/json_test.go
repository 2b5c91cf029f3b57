package vector

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"testing"
)

// The text is that of encoding/json, and gives the same bits again.
func TestAppendJSON(t *testing.T) {
	check := func(values []float32) {
		t.Helper()
		got := AppendJSON(nil, values)
		want, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			g, w := bytes.Split(got, []byte(",")), bytes.Split(want, []byte(","))
			for i := range w {
				if i < len(g) && !bytes.Equal(g[i], w[i]) {
					t.Fatalf("%x is %s, want %s", math.Float32bits(values[i]), g[i], w[i])
				}
			}
			t.Fatalf("%.200s, want %.200s", got, want)
		}
		back, n, err := AppendFloats(nil, got)
		if err != nil || n != len(got) || len(back) != len(values) {
			t.Fatalf("%.200s is read as %d values, %v", got, len(back), err)
		}
		for i := range back {
			if math.Float32bits(back[i]) != math.Float32bits(values[i]) {
				t.Fatalf("%x became %x", math.Float32bits(values[i]), math.Float32bits(back[i]))
			}
		}
	}
	negativeZero := float32(math.Copysign(0, -1))
	check([]float32{})
	check([]float32{0, negativeZero, 1, -1, 0.5, 0.1, -0.034, 0.0025, 123456.78, 999999.94, 1e6, 1e-6, 9.999999e-7, 1e21, 1e20, math.MaxFloat32, math.SmallestNonzeroFloat32})
	// The neighbours of each power of two and of ten.
	var near []float32
	for e := -149; e < 128; e++ {
		for _, x := range []float32{float32(math.Ldexp(1, e)), float32(math.Pow(10, float64(e)/3.4))} {
			for d := -3; d <= 3; d++ {
				if f := math.Float32frombits(math.Float32bits(x) + uint32(d)); !math.IsNaN(float64(f)) && !math.IsInf(float64(f), 0) {
					near = append(near, f, -f)
				}
			}
		}
	}
	check(near)
	// Numbers with few digits, which are not the nearest to a short number only.
	var short []float32
	for n := range 100_000 {
		short = append(short, float32(n)/1000, float32(n)/1e5, float32(n)/1e8)
	}
	check(short)
	rnd := rand.New(rand.NewPCG(1, 2))
	many := make([]float32, 200_000)
	for i := range many {
		for {
			if many[i] = math.Float32frombits(rnd.Uint32()); i%2 == 0 {
				many[i] = float32(rnd.NormFloat64() / 27)
			}
			if f := float64(many[i]); !math.IsNaN(f) && !math.IsInf(f, 0) {
				break
			}
		}
	}
	check(many)
	if os.Getenv("ALL_FLOATS") != "" {
		var all []float32
		for word := math.Float32bits(1e-6) - 10; word < math.Float32bits(1e6)+10; word++ {
			if all = append(all, math.Float32frombits(word)); len(all) == 1<<16 {
				check(all)
				all = all[:0]
			}
		}
		check(all)
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 0))
	v := make([]float32, 768*32)
	for i := range v {
		v[i] = float32(rnd.NormFloat64() / math.Sqrt(768))
	}
	var out []byte
	report := func(b *testing.B) {
		b.SetBytes(int64(len(out)))
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(v)), "ns/value")
	}
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			out = AppendJSON(out[:0], v)
		}
		report(b)
	})
	b.Run("strconv", func(b *testing.B) {
		for b.Loop() {
			out = out[:0]
			for _, f := range v {
				out = append(appendUnusual(out, f), ',')
			}
		}
		report(b)
	})
}
