package emulator

import (
	"math"
	"math/bits"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// The direction of a vector depends only on the text and dim, not on the title
// and the task type. The model decides how much of the text counts, and the
// length of the vector. gemini-embedding-2 has unit vectors at every dim, other
// models only at 3072. Their shorter vectors have a length between 0.55 and
// 0.75, so that a client that forgets to normalize is noticed
// (ai.google.dev/gemini-api/docs/embeddings, "Ensuring quality for smaller
// dimensions").

// Vector returns the emulator's vector of text. It hashes the words, their
// beginnings and their triples of letters, so that texts that share words have a
// high cosine. It ignores function words, and the part of the text that the
// model does not read.
func Vector(model, text string, dim int) []float32 {
	var v vectorizer
	return v.vector(model, string(cut(model, []byte(text))), dim)
}

// CheapVector is Vector in the cheap mode: a hash of the text selects values
// from a table. It is as fast as possible, with realistic digits. The vectors of
// similar texts are not similar, and no vector has length 1. The caller must
// truncate a text that is longer than the model reads.
func CheapVector(text string, dim int) []float32 {
	v := make([]float32, dim)
	table := cheapTable()
	g := newRandom(text)
	for i := range v {
		v[i] = table[g.next()%cheapSize].value
	}
	return v
}

// normalizes reports whether the model's vectors of this dim have length 1.
func normalizes(model string, dim int) bool {
	return dim == maxDim || strings.HasPrefix(model, "gemini-embedding-2")
}

// vectorizer keeps its buffers between texts.
type vectorizer struct {
	seen     map[uint64]int // index of each feature in features
	features []feature
	sums     []float64
	word     []byte
	starts   []int // offset of each rune of word
}

type feature struct {
	hash   uint64
	weight float64
	count  float64
}

// functionWords do not say what a text is about.
var functionWords = func() map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(`a an and any are as at be been but by can could did do does each for from had has have he her his how i if
		in into is it its may might must no nor not of on one only or other our out over shall she should so some such than that the
		their them then there these they this those to under up upon use used using was we were what when where which while who why
		will with would you your`) {
		m[w] = true
	}
	return m
}()

func (v *vectorizer) vector(model, text string, dim int) []float32 {
	v.collect(text)
	if cap(v.sums) < dim {
		v.sums = make([]float64, dim)
	}
	sums := v.sums[:dim]
	clear(sums)
	n := uint64(dim)
	for _, f := range v.features {
		// A feature has 8 places with 8 signs. Its weight grows with the square
		// root of its count.
		w := f.weight * math.Sqrt(f.count)
		h := f.hash
		for range 8 {
			h = mix(h)
			if h&1 == 0 {
				sums[(h>>8)%n] += w
			} else {
				sums[(h>>8)%n] -= w
			}
		}
	}
	var square float64
	for _, x := range sums {
		square += float64(x * x)
	}
	// Noise of a tenth of the length fills every place. It depends on the text,
	// and makes the vectors of different texts different.
	noise := 1.0
	if square > 0 {
		noise = 0.1 * math.Sqrt(square)
	}
	noise *= math.Sqrt(3 / float64(dim))
	g := newRandom(text)
	square = 0
	for i, x := range sums {
		unit := float64(int32(g.next()))/(1<<31) + 1.0/(1<<32) // in (-1, 1), never 0
		x += float64(noise * unit)
		sums[i] = x
		square += float64(x * x)
	}
	scale := 1 / math.Sqrt(square)
	if !normalizes(model, dim) {
		scale *= 0.55 + float64(0.2*float64(g.next())/(1<<32))
	}
	out := make([]float32, dim)
	for i, x := range sums {
		out[i] = float32(x * scale)
	}
	return out
}

// collect finds the features of a text, in the order of their first occurrence,
// so that the sums are always the same.
func (v *vectorizer) collect(text string) {
	if v.seen == nil {
		v.seen = map[uint64]int{}
	}
	clear(v.seen)
	v.features = v.features[:0]
	v.word = append(v.word[:0], '<')
	for _, r := range text {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			v.word = utf8.AppendRune(v.word, unicode.ToLower(r))
			continue
		}
		v.endWord()
	}
	v.endWord()
}

// endWord adds the features of the word between the angle brackets.
func (v *vectorizer) endWord() {
	word := v.word[1:]
	if len(word) > 0 && !functionWords[string(word)] {
		v.add('w', word, 1)
		v.word = append(v.word, '>')
		v.starts = v.starts[:0]
		for i := range string(v.word) {
			v.starts = append(v.starts, i)
		}
		v.starts = append(v.starts, len(v.word))
		if len(v.starts) > 7 { // longer than five letters
			v.add('p', v.word[:v.starts[6]], 1)
		}
		for k := 3; k < len(v.starts); k++ {
			v.add('t', v.word[v.starts[k-3]:v.starts[k]], 0.25)
		}
	}
	v.word = append(v.word[:0], '<')
}

func (v *vectorizer) add(kind byte, s []byte, weight float64) {
	h := hash(s) ^ mix(uint64(kind))
	i, ok := v.seen[h]
	if !ok {
		i = len(v.features)
		v.seen[h] = i
		v.features = append(v.features, feature{hash: h, weight: weight})
	}
	v.features[i].count++
}

// ---- hashing; it must never change, because tests compare vectors bit for bit across processes

// mix makes every bit of the result depend on every bit of x: a step of
// splitmix64 (Steele, Lea and Flood, 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// hash reads eight bytes at a time.
func hash[T string | []byte](s T) uint64 {
	h := uint64(len(s)) + 0x2545f4914f6cdd1d
	i := 0
	for ; i+8 <= len(s); i += 8 {
		w := uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
			uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
		hi, lo := bits.Mul64(h^w, 0x9e3779b97f4a7c15)
		h = hi ^ lo ^ bits.RotateLeft64(h, 23)
	}
	var w uint64
	for ; i < len(s); i++ {
		w = w<<8 | uint64(s[i])
	}
	return mix(h ^ w)
}

// random is a stream of 32-bit numbers that depends on a text alone.
type random struct {
	state, word uint64
	half        bool
}

func newRandom[T string | []byte](text T) random { return random{state: hash(text)} }

func (g *random) next() uint32 {
	if g.half = !g.half; g.half {
		g.state += 0x9e3779b97f4a7c15
		g.word = mix(g.state)
		return uint32(g.word)
	}
	return uint32(g.word >> 32)
}

// ---- digits

const cheapSize = 1 << 12

type cheapEntry struct {
	value  float32
	length uint8
	digits [15]byte // the shortest decimal, then a comma
}

// cheapTable has values and their digits. Their distribution is that of the
// values of a real vector with dim 768. It is made at its first use, because it
// takes a millisecond, and the emulator is a part of the program of all commands.
var cheapTable = sync.OnceValue(func() *[cheapSize]cheapEntry {
	table := new([cheapSize]cheapEntry)
	g := newRandom("a table of values with their digits")
	for i := range table {
		e := &table[i]
		for e.length == 0 {
			x := 0.0
			for range 4 {
				x += float64(int32(g.next())) / (1 << 31)
			}
			e.value = float32(x * 0.031)
			if d := strconv.AppendFloat(nil, float64(e.value), 'g', -1, 32); len(d) < len(e.digits) {
				e.length = uint8(copy(e.digits[:], append(d, ',')))
			}
		}
	}
	return table
})

// appendCheap appends the digits of CheapVector(text, dim), separated by commas.
func appendCheap(dst, text []byte, dim int) []byte {
	g := newRandom(text)
	table := cheapTable()
	const width = len(table[0].digits)
	for range dim {
		e := &table[g.next()%cheapSize]
		n := len(dst)
		if n+width > cap(dst) {
			dst = append(dst, make([]byte, dim*width)...)[:n]
		}
		copy(dst[n:n+width], e.digits[:])
		dst = dst[:n+int(e.length)]
	}
	return dst[:len(dst)-1]
}

// appendDigits appends values separated by commas. With bits 32 it writes the
// shortest decimal that reads back as the same float32. With bits 64 it writes
// the shortest decimal of the same value as a float64. That is longer, and also
// reads back as the same float32.
func appendDigits(dst []byte, values []float32, bits int) []byte {
	for i, x := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendFloat(dst, float64(x), 'g', -1, bits)
	}
	return dst
}
