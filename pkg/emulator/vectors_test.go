package emulator

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func length(v []float32) float64 {
	var sum float64
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	return math.Sqrt(sum)
}

func cosine(a, b []float32) float64 {
	var dot float64
	for i := range a {
		dot += float64(a[i]) * float64(b[i])
	}
	return dot / length(a) / length(b)
}

func TestVectorLength(t *testing.T) {
	for _, text := range []string{"a", "", "the", "Ein Satz mit Wörtern, noch einer.", strings.Repeat("long text here ", 1000)} {
		for _, dim := range []int{1, 3, 4, 128, 768, 1536, 3072} {
			for _, model := range []string{model001, model2, "gemini-embedding-2-preview", "gemini-pseudo"} {
				v := Vector(model, text, dim)
				if len(v) != dim {
					t.Fatalf("%d values, want %d", len(v), dim)
				}
				unit := dim == 3072 || strings.HasPrefix(model, model2)
				if n := length(v); (math.Abs(n-1) < 1e-5) != unit || n < 0.5 {
					t.Errorf("%s, %.10q, %d: length %v", model, text, dim, n)
				}
			}
		}
	}
}

func TestVectorIsAFunctionOfTextAndDim(t *testing.T) {
	var kept vectorizer
	for _, text := range []string{"one text", "another text, longer", "one text"} {
		want := Vector(model001, text, 64)
		if !sameBits(kept.vector(model001, text, 64), want) {
			t.Errorf("%q: another vector from a used vectorizer", text)
		}
		if !sameBits(Vector("gemini-pseudo", text, 64), want) {
			t.Errorf("%q: another vector for another model of the same kind", text)
		}
	}
	// Earlier versions gave these values. Files that were made with them must
	// still match.
	if got := fmt.Sprint(Vector(model2, "hello world", 4)); got != "[-0.42759815 0.20491616 0.36619934 -0.80066675]" {
		t.Errorf("the vector of hello world is now %s", got)
	}
	if got := fmt.Sprint(CheapVector("hello world", 4)); got != "[-0.0024908509 -0.063500136 -0.00025740577 -0.045639306]" {
		t.Errorf("the cheap vector of hello world is now %s", got)
	}
	if sameBits(Vector(model001, "dog bites man", 768), Vector(model001, "man bites dog", 768)) {
		t.Error("two texts of the same words have one vector")
	}
}

func TestLikeTextsAreAlike(t *testing.T) {
	groups := [][]string{
		{
			"The Go memory model specifies the conditions under which reads of a variable in one goroutine observe writes in another.",
			"When does a goroutine observe a write to a variable made by another goroutine? See the memory model.",
			"Reads and writes of variables in goroutines",
		},
		{
			"A slice is a descriptor for a contiguous segment of an underlying array.",
			"Slices describe segments of arrays and share the underlying array with other slices.",
			"underlying array of a slice",
		},
		{
			"Bake the bread for forty minutes at two hundred degrees and let it cool on a rack.",
			"How long do I bake bread, and how hot must the oven be?",
			"cooling baked bread",
		},
	}
	for _, dim := range []int{768, 3072} {
		for g, group := range groups {
			for i, a := range group {
				for h, other := range groups {
					for k, b := range other {
						if g == h {
							continue
						}
						unlike := cosine(Vector(model001, a, dim), Vector(model001, b, dim))
						like := cosine(Vector(model001, a, dim), Vector(model001, group[(i+1)%3], dim))
						if like <= unlike {
							t.Errorf("dim %d: %q is nearer to %q (%.3f) than to %q (%.3f)", dim, a, other[k], unlike, group[(i+1)%3], like)
						}
					}
				}
			}
		}
	}
}

func TestDigitsReadBackTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		text := strconv.FormatUint(r.Uint64(), 36)
		v := Vector(model001, text, 100)
		for _, bits := range []int{32, 64} {
			if got := parseDigits(t, appendDigits(nil, v, bits)); !sameBits(got, v) {
				t.Fatalf("%d bits: %v, want %v", bits, got, v)
			}
		}
		// The result is the same with any free space in the buffer.
		for _, dst := range [][]byte{nil, make([]byte, 0, 7), bytes.Repeat([]byte("x"), 20)} {
			if got := parseDigits(t, appendCheap(dst, []byte(text), 100)[len(dst):]); !sameBits(got, CheapVector(text, 100)) {
				t.Fatal("cheap digits differ from the cheap vector")
			}
		}
	}
	for i, e := range cheapTable() {
		if d := string(e.digits[:e.length-1]); e.digits[e.length-1] != ',' || d != strconv.FormatFloat(float64(e.value), 'g', -1, 32) {
			t.Fatalf("entry %d: %v is %q", i, e.value, d)
		}
	}
}

func parseDigits(t *testing.T, b []byte) []float32 {
	t.Helper()
	var v []float32
	for word := range strings.SplitSeq(string(b), ",") {
		x, err := strconv.ParseFloat(word, 32)
		if err != nil {
			t.Fatal(err)
		}
		v = append(v, float32(x))
	}
	return v
}

func TestRandomIsSpread(t *testing.T) {
	g := newRandom("x")
	var high, low int
	var seen []uint32
	for range 10000 {
		x := g.next()
		high += int(x >> 31)
		low += int(x & 1)
		seen = append(seen, x)
	}
	slices.Sort(seen)
	if n := len(slices.Compact(seen)); n < 9990 || high < 4800 || high > 5200 || low < 4800 || low > 5200 {
		t.Errorf("%d different of 10000, %d high bits, %d low bits", n, high, low)
	}
}

var passage = strings.Repeat("A passage of ordinary text about nothing in particular, said in several different ways. ", 17)

func BenchmarkVector(b *testing.B) {
	var v vectorizer
	var digits []byte
	for b.Loop() {
		digits = appendDigits(digits[:0], v.vector(model001, passage, 768), 32)
		b.SetBytes(int64(len(digits)))
	}
}

func BenchmarkCheapVector(b *testing.B) {
	var digits []byte
	text := []byte(passage)
	for b.Loop() {
		digits = appendCheap(digits[:0], text, 768)
		b.SetBytes(int64(len(digits)))
	}
}
