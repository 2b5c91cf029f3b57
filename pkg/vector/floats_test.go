package vector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// eachWay runs f with the kernels, if there are any, and without.
func eachWay(t *testing.T, f func(t *testing.T)) {
	had := kernels
	defer func() { kernels = had }()
	for _, kernels = range []bool{false, true} {
		if kernels && !had {
			continue
		}
		t.Run(fmt.Sprintf("kernels=%t", kernels), f)
	}
}

// reference is AppendFloats with encoding/json and strconv.
func reference(dst []float32, src []byte) (out []float32, n int, err error) {
	d := json.NewDecoder(bytes.NewReader(src))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('[') || src[0] != '[' {
		return dst, 0, errors.New("not an array")
	}
	out = dst
	for {
		t, err := d.Token()
		if err != nil {
			return dst, 0, err
		}
		if t == json.Delim(']') {
			return out, int(d.InputOffset()), nil
		}
		s, ok := t.(json.Number)
		if !ok {
			return dst, 0, fmt.Errorf("%v is not a number", t)
		}
		f, err := strconv.ParseFloat(s.String(), 32)
		if err != nil {
			return dst, 0, err
		}
		out = append(out, float32(f))
	}
}

// same reports whether a and b have the same values bit for bit.
func same(a, b []float32) bool { return bytes.Equal(appendBytes(nil, a), appendBytes(nil, b)) }

// check compares AppendFloats with the reference.
func check(t *testing.T, src []byte) {
	t.Helper()
	prefix := []float32{7, 8, 9}
	out, n, err := AppendFloats(prefix[:3:3], src)
	want, wantN, wantErr := reference(prefix[:3:3], src)
	switch {
	case (err == nil) != (wantErr == nil):
		t.Fatalf("%q\ngot error %v, want %v", src, err, wantErr)
	case err != nil:
		var se *syntaxError
		if !errors.As(err, &se) || se.Offset != n || n < 0 || n > len(src) {
			t.Fatalf("%q\nerror %#v with n %d", src, err, n)
		}
		if len(out) != 3 {
			t.Fatalf("%q\nan error and %d values", src, len(out)-3)
		}
	case n != wantN || !same(out, want):
		t.Fatalf("%q\ngot %v up to %d, want %v up to %d", src, out[3:], n, want[3:], wantN)
	}
}

// plain returns n values in the form that the kernel reads.
func plain(n int) string { return strings.Repeat("0.012345678,-0.12345678,", n/2) }

var arrays = []struct {
	src string
	err string // empty if the array is valid
}{
	{"[]", ""},
	{" []", "offset 0: not an array"},
	{"", "offset 0: not an array"},
	{"null", "offset 0: not an array"},
	{"[ \t\r\n]", ""},
	{"[0]", ""},
	{"[-0]", ""},
	{"[-0.0,0.0, -0.00000000 ,0e5]", ""},
	{"[0.5]x", ""},
	{"[0.5],[0.25]", ""},
	{"[ 0.5 , -1.25\n,\r\n\t3.1415927 ]", ""},
	{"[1e-40,1E-45,7e-46,1e-400]", ""},
	{"[1e+2,1E2,1.5e-3]", ""},
	{"[3.4028235e38,-340282346638528859811704183484516925440]", ""},
	{"[18446744073709551616]", ""}, // 1<<64
	{"[0.000000000000000000000000000000000000000000001]", ""},
	{"[0.123456789012345678901234567890123456789]", ""},
	{"[3.4028236e38]", `offset 1: "3.4028236e38" does not fit a float32`},
	{"[1,1e39]", `offset 3: "1e39" does not fit a float32`},
	{"[1e99999999999999999999]", `offset 1: "1e99999999999999999999" does not fit a float32`},
	{"[null]", `offset 1: "null" is not a number`},
	{"[0.5,null]", `offset 5: "null" is not a number`},
	{"[NaN]", `offset 1: "NaN" is not a number`},
	{"[nan]", `offset 1: "nan" is not a number`},
	{"[Infinity]", `offset 1: "Infinity" is not a number`},
	{"[-Infinity]", `offset 1: "-Infinity" is not a number`},
	{"[inf]", `offset 1: "inf" is not a number`},
	{"[true]", `offset 1: "true" is not a number`},
	{`["0.25"]`, `offset 1: "\"0.25\"" is not a number`},
	{"[[0.5]]", `offset 1: "[0.5" is not a number`},
	{"[{}]", `offset 1: "{}" is not a number`},
	{"[00.5]", `offset 1: "00.5" is not a number`},
	{"[-00.5]", `offset 1: "-00.5" is not a number`},
	{"[01]", `offset 1: "01" is not a number`},
	{"[1.]", `offset 1: "1." is not a number`},
	{"[.5]", `offset 1: ".5" is not a number`},
	{"[-.5]", `offset 1: "-.5" is not a number`},
	{"[+1]", `offset 1: "+1" is not a number`},
	{"[--1]", `offset 1: "--1" is not a number`},
	{"[-]", `offset 1: "-" is not a number`},
	{"[1e]", `offset 1: "1e" is not a number`},
	{"[1e+]", `offset 1: "1e+" is not a number`},
	{"[0.e1]", `offset 1: "0.e1" is not a number`},
	{"[0x1]", `offset 2: 'x' after a value, where a comma or ] was expected`},
	{"[1_0]", `offset 2: '_' after a value, where a comma or ] was expected`},
	{"[1 2]", `offset 3: '2' after a value, where a comma or ] was expected`},
	{"[0.5;0.5]", `offset 4: ';' after a value, where a comma or ] was expected`},
	{"[1}", `offset 2: '}' after a value, where a comma or ] was expected`},
	{"[1.2.3]", `offset 4: '.' after a value, where a comma or ] was expected`},
	{"[1,]", `offset 3: "]" is not a number`},
	{"[,1]", `offset 1: "," is not a number`},
	{"[1,,2]", `offset 3: "," is not a number`},
	{"[\v1]", `offset 1: "\v" is not a number`},
	{"[\u00a01]", `offset 1: "\u00a01" is not a number`},
	{"[0.5" + strings.Repeat(",", 3000) + "]", `offset 5: "," is not a number`},
	{"[0.5" + strings.Repeat(",0.1", 3000) + "]", ""},
	{"[", "offset 1: the array has no end"},
	{"[ ", "offset 2: the array has no end"},
	{"[0.5", "offset 4: the array has no end"},
	{"[0.5,", "offset 5: the array has no end"},
	{"[0.5, ", "offset 6: the array has no end"},
	{"[0.", `offset 1: "0." is not a number`},
	{"[-", `offset 1: "-" is not a number`},
}

func TestAppendFloats(t *testing.T) {
	eachWay(t, func(t *testing.T) {
		for _, c := range arrays {
			check(t, []byte(c.src))
			_, _, err := AppendFloats(nil, []byte(c.src))
			if got := fmt.Sprint(err); err != nil && got != c.err || err == nil && c.err != "" {
				t.Errorf("%q: got error %s, want %q", c.src, got, c.err)
			}
			// The same among values that the kernel reads.
			if strings.HasPrefix(c.src, "[") {
				for n := 2; n < 12; n += 2 {
					check(t, []byte("["+plain(n)+c.src[1:]))
					check(t, []byte("["+plain(n)+c.src[1:]+strings.Repeat(" ", 200)))
					check(t, []byte("["+plain(n)+strings.Replace(c.src[1:], "]", ","+plain(60)+"1]", 1)))
				}
			}
		}
	})
}

// A long array that is cut off at any place is never accepted, and nothing after
// src is read.
func TestAppendFloatsTruncated(t *testing.T) {
	eachWay(t, func(t *testing.T) {
		src := array(1, 100, 32, ",")
		for n := range src {
			if _, _, err := AppendFloats(nil, src[:n:n]); err == nil {
				t.Fatalf("accepted %q", src[:n])
			}
		}
	})
}

// AppendFloats does not change what is in dst before its length, or after what
// is appended.
func TestAppendFloatsDst(t *testing.T) {
	eachWay(t, func(t *testing.T) {
		for size := range 200 {
			src := array(2, 150, 32, ",")
			want, _, err := reference(nil, src)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]float32, size+1)
			buf[0], buf[size] = 42, 43
			out, n, err := AppendFloats(buf[:min(1, size):size], src)
			if err != nil || n != len(src) {
				t.Fatal(n, err)
			}
			if buf[size] != 43 {
				t.Fatalf("room for %d values: wrote beyond", size)
			}
			if size > 0 && out[0] != 42 || !same(out[min(1, size):], want) {
				t.Fatalf("room for %d values: got %v", size, out)
			}
		}
	})
}

func TestAppendFloatsAllocs(t *testing.T) {
	src := append(array(3, 768, 32, ","), tail...)
	buf := make([]float32, 0, 768+64)
	if n := testing.AllocsPerRun(100, func() { buf, _, _ = AppendFloats(buf[:0], src) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Each generator writes one number.
var generators = []struct {
	name string
	next func(b []byte, r *rand.Rand) []byte
}{
	{"component, shortest float32", func(b []byte, r *rand.Rand) []byte {
		return strconv.AppendFloat(b, float64(float32(r.NormFloat64()*0.036)), 'g', -1, 32)
	}},
	{"component, shortest float32, no exponent", func(b []byte, r *rand.Rand) []byte {
		return strconv.AppendFloat(b, float64(float32(r.NormFloat64()*0.036)), 'f', -1, 32)
	}},
	{"component, shortest float64", func(b []byte, r *rand.Rand) []byte {
		return strconv.AppendFloat(b, r.NormFloat64()*0.036, 'f', -1, 64)
	}},
	{"component, 1 to 36 decimals", func(b []byte, r *rand.Rand) []byte {
		return strconv.AppendFloat(b, r.Float64()-0.5, 'f', 1+r.IntN(36), 64)
	}},
	{"any float32", func(b []byte, r *rand.Rand) []byte {
		return strconv.AppendFloat(b, float64(anyFloat32(r)), "efg"[r.IntN(3)], -1, 32)
	}},
	{"any float32, 1 to 25 digits", func(b []byte, r *rand.Rand) []byte {
		return strconv.AppendFloat(b, float64(anyFloat32(r)), 'e', r.IntN(25), 64)
	}},
	{"float64 of any exponent", func(b []byte, r *rand.Rand) []byte {
		return strconv.AppendFloat(b, math.Ldexp(r.Float64()-0.5, r.IntN(290)-155), 'g', -1, 64)
	}},
	{"subnormal", func(b []byte, r *rand.Rand) []byte {
		return strconv.AppendFloat(b, float64(math.Float32frombits(r.Uint32()&0x807fffff)), 'e', 1+r.IntN(20), 64)
	}},
	{"midpoint", func(b []byte, r *rand.Rand) []byte {
		return strconv.AppendFloat(b, midpoint(anyFloat32(r)), 'e', 110, 64)
	}},
	{"midpoint and one unit", func(b []byte, r *rand.Rand) []byte {
		m := midpoint(anyFloat32(r))
		return strconv.AppendFloat(b, math.Nextafter(m, float64(r.IntN(3)-1)*1e300), 'e', -1, 64)
	}},
	{"midpoint of a component, exact and a digit", func(b []byte, r *rand.Rand) []byte {
		m := midpoint(float32(r.NormFloat64() * 0.036))
		b = bytes.TrimRight(strconv.AppendFloat(b, m, 'f', 60, 64), "0")
		switch r.IntN(3) {
		case 0:
			b = append(b, '1')
		case 1:
			b[len(b)-1]-- // the last digit is a 5
		}
		return b
	}},
	{"midpoint of a component, 8 to 24 decimals", func(b []byte, r *rand.Rand) []byte {
		m := midpoint(float32(r.NormFloat64() * 0.036))
		return strconv.AppendFloat(b, m, 'f', 8+r.IntN(17), 64)
	}},
	{"midpoint of 25 decimals", func(b []byte, r *rand.Rand) []byte {
		return strconv.AppendFloat(b, float64(1<<24+2*r.IntN(1<<23)+1)/(1<<25), 'f', 25, 64)
	}},
	{"digits", func(b []byte, r *rand.Rand) []byte {
		b = append(b, []string{"", "-"}[r.IntN(2)]...)
		if r.IntN(2) == 0 {
			b = append(b, '0')
		} else {
			b = append(b, byte('1'+r.IntN(9)))
			b = appendDigits(b, r, r.IntN(25))
		}
		b = appendDigits(append(b, '.'), r, 1+r.IntN(25))
		if r.IntN(2) == 0 {
			b = fmt.Appendf(b, "e%+d", r.IntN(100)-60)
		}
		return b
	}},
	{"zeros and digits", func(b []byte, r *rand.Rand) []byte {
		b = append(b, "-0."[r.IntN(2):]...)
		b = append(b, strings.Repeat("0", r.IntN(50))...)
		return appendDigits(b, r, 1+r.IntN(25))
	}},
	{"integer", func(b []byte, r *rand.Rand) []byte {
		return strconv.AppendInt(b, int64(r.Uint64())>>r.IntN(64), 10)
	}},
}

func appendDigits(b []byte, r *rand.Rand, n int) []byte {
	for range n {
		b = append(b, byte('0'+r.IntN(10)))
	}
	return b
}

func anyFloat32(r *rand.Rand) float32 {
	for {
		if f := math.Float32frombits(r.Uint32()); f-f == 0 {
			return f
		}
	}
}

// midpoint returns the number half-way between f and its neighbour away from
// zero.
func midpoint(f float32) float64 {
	next := math.Float32frombits(math.Float32bits(f) + 1)
	if math.IsInf(float64(next), 0) {
		next = f
	}
	return (float64(f) + float64(next)) / 2
}

// Ten million values of every kind are compared with strconv, in arrays of one
// kind and of all. A number that strconv refuses must be refused too, when it is
// alone.
func TestAppendFloatsValues(t *testing.T) {
	total := 10_000_000
	if testing.Short() {
		total = 1_000_000
	}
	const perArray = 500
	r := rand.New(rand.NewPCG(1, 2))
	var (
		src       []byte
		want, got []float32
		texts     []string
		refused   int
		other     []float32
	)
	had := kernels
	defer func() { kernels = had }()
	for done, kind := 0, 0; done < total; kind++ {
		gen := kind % (len(generators) + 1)
		sep := []string{",", ",", ", ", " ,", ",\n\t", ",  "}[r.IntN(6)]
		src, want, texts = append(src[:0], '['), want[:0], texts[:0]
		for len(want) < perArray {
			g := gen
			if g == len(generators) {
				g = r.IntN(len(generators))
			}
			start := len(src)
			src = generators[g].next(src, r)
			text := string(src[start:])
			v, err := strconv.ParseFloat(text, 32)
			if err != nil {
				src = src[:start]
				for _, kernels = range []bool{false, had} {
					if _, n, err := AppendFloats(nil, []byte("["+text+"]")); err == nil || n != 1 {
						t.Fatalf("%s accepted, strconv says %v", text, err)
					}
				}
				if refused++; refused > total {
					t.Fatal("hardly any number is good")
				}
				continue
			}
			want, texts = append(want, float32(v)), append(texts, text)
			src = append(src, sep...)
		}
		src = append(append(src, "1]"...), tail...)
		want, texts = append(want, 1), append(texts, "1")
		for _, kernels = range []bool{false, had} {
			var n int
			var err error
			got, n, err = AppendFloats(got[:0], src)
			if err != nil || n != len(src)-len(tail) || len(got) != len(want) {
				t.Fatalf("got %d values up to %d, %v; want %d up to %d: %.200s…", len(got), n, err, len(want), len(src)-len(tail), src[min(n, len(src)):])
			}
			for i := range want {
				if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
					t.Fatalf("%s: got %v (%#x), want %v (%#x)", texts[i], got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
				}
			}
			got, other = other, got
		}
		done += len(want)
	}
	t.Logf("%d values as strconv reads them, %d that it refuses refused", total, refused)
}

// Arrays with up to three edited bytes are accepted or refused like by the
// reference, with the same values and the same end.
func TestAppendFloatsEdited(t *testing.T) {
	arrays := 200_000
	if testing.Short() {
		arrays = 20_000
	}
	const bytesOfNumbers = "0123456789.-+eE,[] \t\n\r\"nulNIx\x00{}/:"
	r := rand.New(rand.NewPCG(3, 4))
	had := kernels
	defer func() { kernels = had }()
	accepted := 0
	var src []byte
	for range arrays {
		src = append(src[:0], '[')
		sep := []string{",", ", "}[r.IntN(2)]
		gen := generators[r.IntN(4)].next
		if r.IntN(10) == 0 {
			gen = generators[r.IntN(len(generators)-3)+3].next
		}
		for range 20 + r.IntN(20) {
			src = append(gen(src, r), sep...)
		}
		src = append(append(src, "0.5]"...), tail...)
		src = append(src, "                                                              "...)
		for range r.IntN(4) {
			i := r.IntN(len(src))
			switch c := bytesOfNumbers[r.IntN(len(bytesOfNumbers))]; r.IntN(3) {
			case 0:
				src[i] = c
			case 1:
				src = append(src[:i], src[i+1:]...)
			case 2:
				src = append(src[:i+1], src[i:]...)
				src[i] = c
			}
		}
		kernels = had
		check(t, src)
		if _, _, err := AppendFloats(nil, src); err == nil {
			accepted++
		}
		kernels = false
		check(t, src)
	}
	if accepted < arrays/10 || accepted > arrays*9/10 {
		t.Errorf("%d of %d accepted: the edits prove little", accepted, arrays)
	}
}

func FuzzAppendFloats(f *testing.F) {
	for _, c := range arrays {
		f.Add([]byte(c.src))
	}
	f.Add(array(1, 40, 32, ","))
	f.Add(array(1, 40, 64, ", "))
	had := kernels
	f.Fuzz(func(t *testing.T, src []byte) {
		defer func() { kernels = had }()
		for _, kernels = range []bool{false, had} {
			check(t, src)
			if len(src) > 0 && src[0] == '[' {
				// The kernel needs bytes before and after.
				src := []byte("[" + plain(2) + string(src[1:]))
				check(t, src)
				check(t, append(src, "0.25,0.25,0.25,0.25]"+strings.Repeat(" ", 200)...))
			}
		}
	})
}
