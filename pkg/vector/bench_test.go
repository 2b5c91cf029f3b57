package vector

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
)

// array writes dim components of a unit vector as JSON: with the shortest digits
// of a float32 or a float64, like most encoders.
func array(seed uint64, dim, bits int, sep string) []byte {
	rnd := rand.New(rand.NewPCG(seed, 0))
	b := []byte{'['}
	for i := range dim {
		if i > 0 {
			b = append(b, sep...)
		}
		x := rnd.NormFloat64() / math.Sqrt(float64(dim))
		if bits == 32 {
			x = float64(float32(x))
		}
		b = strconv.AppendFloat(b, x, 'g', -1, bits)
	}
	return append(b, ']')
}

// byStrconv reads numbers separated by commas with strconv.
func byStrconv(dst []float32, src []byte) ([]float32, error) {
	for more := true; more; {
		var number []byte
		number, src, more = bytes.Cut(src, []byte(","))
		f, err := strconv.ParseFloat(string(bytes.TrimSpace(number)), 32)
		if err != nil {
			return dst, err
		}
		dst = append(dst, float32(f))
	}
	return dst, nil
}

// tail is what follows the array in Google's line.
const tail = `}},"key":"chunk_123"}`

func BenchmarkAppendFloats(b *testing.B) {
	for _, c := range []struct {
		name      string
		dim, bits int
		sep       string
	}{
		{"f32_768", 768, 32, ","},
		{"f32_3072", 3072, 32, ","},
		{"f64_768", 768, 64, ","},
		{"f64_3072", 3072, 64, ","},
		{"f32_768_blanks", 768, 32, ", "},
		{"f32_768_lines", 768, 32, ",\n        "},
	} {
		// Several arrays, because the branch predictor would learn a single one.
		var arrays [32][]byte
		size := 0
		for i := range arrays {
			arrays[i] = append(array(uint64(i), c.dim, c.bits, c.sep), tail...)
			size += len(arrays[i])
		}
		out := make([]float32, 0, 2*c.dim)
		run := func(name string, f func(src []byte) error) {
			b.Run(c.name+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					for _, a := range arrays {
						if err := f(a); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(arrays)*c.dim), "ns/value")
			})
		}
		appendFloats := func(src []byte) (err error) {
			out, _, err = AppendFloats(out[:0], src)
			return err
		}
		run("vector", appendFloats)
		if kernels {
			kernels = false
			run("vector_go", appendFloats)
			kernels = true
		}
		run("strconv", func(src []byte) (err error) {
			out, err = byStrconv(out[:0], src[1:len(src)-len(tail)-1])
			return err
		})
		run("encoding_json", func(src []byte) error {
			out = out[:0]
			return json.Unmarshal(src[:len(src)-len(tail)], &out)
		})
	}
}

func BenchmarkBase64(b *testing.B) {
	v, _, err := AppendFloats(nil, array(1, 768, 32, ","))
	if err != nil {
		b.Fatal(err)
	}
	text := AppendBase64(nil, v)
	raw := appendBytes(nil, v)
	buf := make([]byte, 0, len(text))
	out := make([]float32, 0, len(v)+16)
	run := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text))) // bytes of base64, for both directions
			for b.Loop() {
				f()
			}
		})
	}
	run("encode/vector", func() { buf = AppendBase64(buf[:0], v) })
	if kernels {
		kernels = false
		run("encode/vector_go", func() { buf = AppendBase64(buf[:0], v) })
		kernels = true
	}
	run("encode/stdlib_of_bytes", func() { buf = base64.StdEncoding.AppendEncode(buf[:0], raw) })
	run("decode/vector", func() { out, err = DecodeBase64(out[:0], text) })
	run("decode/stdlib_to_bytes", func() { raw, err = base64.StdEncoding.AppendDecode(raw[:0], text) })
	run("bytes", func() { raw = appendBytes(raw[:0], v) })
	if err != nil {
		b.Fatal(err)
	}
}

func BenchmarkNormalize(b *testing.B) {
	v, _, err := AppendFloats(nil, array(1, 768, 32, ","))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("normalize", func(b *testing.B) {
		for b.Loop() {
			Normalize(v)
		}
	})
	b.Run("finite", func(b *testing.B) {
		for b.Loop() {
			Finite(v)
		}
	})
	b.Run("cosine", func(b *testing.B) {
		for b.Loop() {
			Cosine(v, v)
		}
	})
}
