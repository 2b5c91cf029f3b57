package model

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
)

// A sample is a text with the number of tokens that the tokenizer of Gemma 3
// finds in it, see testdata/README.md.
type sample struct {
	Kind   string
	Text   string
	Tokens int64
	Fitted bool // weights may be fitted to it
}

func samples(t testing.TB) (all []sample) {
	f, err := os.Open("testdata/tokens.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		var s sample
		if err := json.Unmarshal(in.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// The estimate is held against samples that no weight was fitted to.
func TestEstimateIsNearTheTrueCount(t *testing.T) {
	plain := Space{Model: "gemini-embedding-2"}.Estimator(1)
	type sum struct{ estimated, counted, n, off int64 }
	kinds := map[string]*sum{}
	number := map[string]int{}
	n, off, enough := 0, 0, 0
	for _, s := range samples(t) {
		number[s.Kind]++
		if s.Fitted {
			continue
		}
		if kinds[s.Kind] == nil {
			kinds[s.Kind] = &sum{}
		}
		k, e := kinds[s.Kind], plain.Request("", s.Text)
		k.estimated += e.Likely
		k.counted += s.Tokens
		k.n++
		n++
		if r := float64(e.Likely) / float64(s.Tokens); r < 0.7 || r > 1.4 {
			k.off++
			off++
		}
		if e.Max >= s.Tokens {
			enough++
		}
	}
	if len(kinds) < 20 {
		t.Errorf("%d kinds of text", len(kinds))
	}
	for kind, k := range kinds {
		if number[kind] < 20 || k.n < 10 {
			t.Errorf("%s: %d samples, %d not fitted", kind, number[kind], k.n)
		}
		r := float64(k.estimated) / float64(k.counted)
		t.Logf("%-12s %.2f of the true count", kind, r)
		if r < 0.7 || r > 1.4 || 2*k.off > k.n {
			t.Errorf("%s: %.2f of the true count, %d of %d samples are outside 0.7 to 1.4", kind, r, k.off, k.n)
		}
	}
	t.Logf("%d samples, %d outside 0.7 to 1.4, Max is enough for %d", n, off, enough)
	if float64(off) > 0.05*float64(n) || float64(enough) < 0.95*float64(n) {
		t.Errorf("of %d samples %d are outside 0.7 to 1.4, and Max is enough for %d", n, off, enough)
	}
}

// What is sent counts: the text, the title and the words of the task type.
func TestEstimateOfWhatIsSent(t *testing.T) {
	const one, two = "gemini-embedding-001", "gemini-embedding-2"
	title, text := "A title", "The text itself, of some words"
	of := func(s Space, title, text string) int64 { return s.Estimator(1).Request(title, text).Likely }
	plain := func(text string) int64 { return of(Space{Model: two}, "", text) }
	for _, c := range []struct {
		s    Space
		want int64
	}{
		{Space{two, 768, DefaultTaskType}, plain("title: " + title + " | text: " + text)},
		{Space{two, 768, "FACT_VERIFICATION"}, plain("task: fact checking | query: " + text)},
		{Space{one, 768, "FACT_VERIFICATION"}, plain(text)},
		{Space{one, 768, DefaultTaskType}, plain(title + text)}, // no word begins at the end of "title" + "The"
	} {
		got := of(c.s, title, text)
		if c.s.Model == one && c.s.TakesTitle() {
			if got < c.want || got > c.want+1 {
				t.Errorf("%v: %d tokens, want %d", c.s, got, c.want)
			}
		} else if got != c.want {
			t.Errorf("%v: %d tokens, want %d", c.s, got, c.want)
		}
	}
	if got, want := of(Space{two, 768, DefaultTaskType}, "", text), plain("title: none | text: "+text); got != want {
		t.Errorf("without a title: %d tokens, want %d", got, want)
	}
}

func TestEstimateAtTheLimit(t *testing.T) {
	e := Space{Model: Default}.Estimator(1)
	if got := e.Request("", ""); got != (Estimate{1, 1, 1, 1}) {
		t.Errorf("an empty text: %+v", got)
	}
	long := e.Request("", strings.Repeat("word ", 10_000))
	if long.Likely != 2048 || long.Max != 2048 || long.Uncut < 5_000 {
		t.Errorf("a long text: %+v", long)
	}
	few := e.Request("", strings.Repeat("12 ", 100))
	if e.OverLimit(few) || !e.OverLimit(long) {
		t.Error("a text over the limit is not told from a short one")
	}
	if few.Max != int64(math.Ceil(230.4*MaxFactor)) || few.Likely != 231 || few.Uncut != 231 {
		t.Errorf("200 digits: %+v", few)
	}
	if half := (Space{Model: Default}).Estimator(0.5).Request("", strings.Repeat("12 ", 100)); half.Likely != 116 || half.Uncut != 116 || half.Plain != 231 {
		t.Errorf("calibrated to a half: %+v", half)
	}
	if sum := few.Plus(long); sum.Likely != few.Likely+2048 || sum.Uncut != few.Uncut+long.Uncut || sum.Max != few.Max+2048 {
		t.Errorf("sum: %+v", sum)
	}
}

func TestCalibrate(t *testing.T) {
	for _, c := range []struct {
		estimated, counted, chunks int64
		want                       float64
		ok                         bool
	}{
		{100_000, 120_000, 1000, 1.2, true},
		{100_000, 120_000, 999, 1, false},
		{100_000, 0, 1000, 1, false}, // Google sent no counts
		{0, 100, 1000, 1, false},
		{1000, 1_000_000, 1000, 2, true},
		{1_000_000, 1000, 1000, 0.5, true},
		{1 << 50, 1 << 50, 1 << 40, 1, true},
	} {
		if got, ok := Calibrate(c.estimated, c.counted, c.chunks); got != c.want || ok != c.ok {
			t.Errorf("%+v: %v, %v", c, got, ok)
		}
	}
}

func TestEstimateAllocatesNothing(t *testing.T) {
	e := Space{"gemini-embedding-2", 768, DefaultTaskType}.Estimator(1)
	if n := testing.AllocsPerRun(10, func() { e.Request("A title", "and a text") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEstimate(b *testing.B) {
	kinds := map[string]*strings.Builder{}
	for _, s := range samples(b) {
		if kinds[s.Kind] == nil {
			kinds[s.Kind] = &strings.Builder{}
		}
		kinds[s.Kind].WriteString(s.Text)
	}
	e := Space{Model: Default}.Estimator(1)
	for _, kind := range []string{"English", "Go", "Chinese", "base64"} {
		text := kinds[kind].String()
		b.Run(fmt.Sprint(kind), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				e.Request("", text)
			}
		})
	}
}
