package model

import (
	"math"
	"sync"
)

// A model's tokens are estimated from the bytes of a text: each byte has a weight
// in thousandths of a token, which depends on the byte before it. The weights
// were fitted to the tokenizer of Gemma 3. That Google's embedding models count
// as Gemma 3 does is an assumption. testdata/README.md says how the weights are
// held against true counts.

// MaxFactor is what a likely number of tokens is multiplied by for Estimate.Max.
// The true count may be larger: testdata/README.md says how often it is.
const MaxFactor = 1.35

// An Estimate is how many tokens a request has, or several requests. Likely and
// Max are what Google counts: of each request, no more than the model's limit.
// Uncut is the likely number without the limit, and Plain is Uncut before
// calibration. All are rounded up.
type Estimate struct{ Likely, Max, Uncut, Plain int64 }

// Plus returns the sum of two estimates.
func (e Estimate) Plus(o Estimate) Estimate {
	return Estimate{e.Likely + o.Likely, e.Max + o.Max, e.Uncut + o.Uncut, e.Plain + o.Plain}
}

// An Estimator estimates the tokens of the requests of a space. Several
// goroutines may use it.
type Estimator struct {
	title  bool
	words  Words
	limit  int64
	factor float64
	pairs  *[1 << 16]uint16
}

// Estimator returns an estimator for the requests of the space. factor is 1, or
// what [Calibrate] returns.
func (s Space) Estimator(factor float64) *Estimator {
	return &Estimator{title: s.TakesTitle(), words: s.Words(), limit: Lookup(s.Model).MaxTokens, factor: factor, pairs: pairs()}
}

// Request estimates the tokens of the request of a chunk: of what is sent, which
// is the text, the title if the space takes one, and the words around them.
func (e *Estimator) Request(title, text string) Estimate {
	w := weight{pairs: e.pairs, last: '\n'}
	if e.title && title != "" {
		w.add(e.words.BeforeTitle)
		w.add(title)
		if e.words.BehindTitle == "" {
			w.last = '\n' // the title is a field of its own
		}
		w.add(e.words.BehindTitle)
	} else {
		w.add(e.words.Before)
	}
	w.add(text)
	n := float64(w.sum) / 1000 * e.factor
	up := func(tokens float64) int64 { return max(1, int64(math.Ceil(tokens))) }
	uncut := up(n)
	return Estimate{Likely: min(uncut, e.limit), Max: min(up(n*MaxFactor), e.limit), Uncut: uncut, Plain: up(float64(w.sum) / 1000)}
}

// OverLimit reports whether Google probably cuts off a part of a request.
func (e *Estimator) OverLimit(r Estimate) bool { return r.Uncut > e.limit }

// A weight is the weight of the bytes that were added, in thousandths of a token.
type weight struct {
	pairs *[1 << 16]uint16
	sum   uint64
	last  byte // the byte before the next one
}

func (w *weight) add(s string) {
	sum, at, pairs := w.sum, uint16(w.last), w.pairs
	for i := range len(s) {
		at = at<<8 | uint16(s[i])
		sum += uint64(pairs[at])
	}
	w.sum, w.last = sum, byte(at)
}

// pairs is the weight of a byte by the byte before it (high) and itself (low).
// The part of the table that a text uses stays in the processor's cache.
var pairs = sync.OnceValue(func() *[1 << 16]uint16 {
	var p [1 << 16]uint16
	for i := range p {
		p[i] = pairWeight(byte(i>>8), byte(i))
	}
	return &p
})

func pairWeight(before, b byte) uint16 {
	const wordStart = 639
	lower := func(b byte) bool { return 'a' <= b && b <= 'z' }
	upper := func(b byte) bool { return 'A' <= b && b <= 'Z' }
	switch {
	case lower(b) && (lower(before) || upper(before)):
		return 99
	case lower(b):
		return 99 + wordStart
	case upper(b) && upper(before):
		return 161
	case upper(b):
		return 161 + wordStart
	case '0' <= b && b <= '9':
		return 1152
	case b == ' ':
		return 0
	case b < ' ' || b == 0x7f:
		return 1073
	case b < 0x80 && b == before:
		return 1700
	case b < 0x80:
		return 647
	}
	for _, lead := range leads {
		if b <= lead.last {
			return lead.weight
		}
	}
	return 0
}

// leads are the weights of the bytes that begin a character beyond ASCII, by the
// last byte of each range. They stand for scripts.
var leads = []struct {
	last   byte
	weight uint16
}{
	{0xc2, 0},    // continuation bytes; signs of Latin-1
	{0xc3, 704},  // letters of Latin-1
	{0xc5, 1006}, // of Latin Extended-A
	{0xcb, 1006}, // other Latin letters, phonetic signs
	{0xcd, 246},  // accents that combine, as in Vietnamese; Greek
	{0xcf, 407},  // Greek
	{0xd4, 280},  // Cyrillic
	{0xd5, 300},  // Armenian
	{0xd7, 552},  // Hebrew
	{0xdf, 390},  // Arabic and others
	{0xe1, 357},  // Devanagari, Thai and others
	{0xe2, 153},  // punctuation and signs
	{0xe3, 418},  // kana
	{0xe9, 619},  // Chinese characters
	{0xed, 664},  // Hangul
	{0xef, 1127}, // forms and private use
	{0xff, 1698}, // beyond the first plane, such as emoji
}

// minCalibration is the number of chunks from which [Calibrate] takes a factor.
const minCalibration = 1000

// Calibrate returns the factor for [Space.Estimator] that fits what Google counted.
// Of the same chunks, which must have been embedded in one space from one table,
// estimated is the sum of Likely with the factor 1, and counted is Google's
// count. Chunks without a count, or at the model's limit, must be left out. With
// fewer than 1,000 chunks, or no count, calibrated is false and the factor is 1.
//
// The factor is held between 0.5 and 2, beyond all that was measured for a kind of
// text: a factor outside tells that the sums are not of the same chunks.
func Calibrate(estimated, counted, chunks int64) (factor float64, calibrated bool) {
	if chunks < minCalibration || estimated <= 0 || counted <= 0 {
		return 1, false
	}
	return min(max(float64(counted)/float64(estimated), 0.5), 2), true
}
