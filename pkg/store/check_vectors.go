package store

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"gbatch/pkg/duck"
	"gbatch/pkg/model"
	"gbatch/pkg/progress"
	"gbatch/pkg/vector"
)

// A reading is what is kept of a vector: 32 bytes, whatever its length is.
type reading struct {
	row    int64
	text   uint64  // half of the hash of its text
	hash   uint64  // of the vector
	norm   float32 // NaN if a value is not finite, wrongLength if there is no vector of the table's dim
	chunk  bool    // the vector belongs to a chunk, though it may not exist any more
	exists bool    // the chunk exists
	fresh  bool    // and its text is the text of the vector
	unlike bool    // Google's count of tokens cannot be that of the text
}

const wrongLength = -1

func byRow(a, b reading) int { return cmp.Compare(a.row, b.row) }

// sound reports whether the vector has a direction.
func (r *reading) sound() bool { return r.norm > 0 }

// From so many different vectors, dead dimensions and a collapsed space are judged.
// With fewer, equal values may be chance.
const enough = 100

// read reads each vector once.
func (a *audit) read(done *progress.Count) error {
	n, err := a.c.Count("SELECT count(*) FROM " + a.e)
	if err != nil || n == 0 {
		return err
	}
	done.Expect(n)
	done.Final()
	a.vectors = make([]reading, 0, n)
	dim := a.space.Dim
	var first []float32
	err = a.c.Stream(func(r *duck.Rows) {
		done.Add(1)
		h := reading{row: r.Int(0), text: r.Uint128(1)[0], norm: wrongLength, chunk: r.Bool(2)}
		if v, whole := r.BorrowFloats(3, dim); whole {
			norm := vector.Norm(v)
			if h.hash = vector.Hash(v); math.IsInf(norm, 0) {
				norm = math.NaN()
			}
			if h.norm = float32(min(norm, math.MaxFloat32)); h.sound() {
				if first == nil {
					first = slices.Clone(v)
					for i := range v {
						a.dead = append(a.dead, i+1)
					}
				}
				if len(a.dead) > 0 {
					a.dead = slices.DeleteFunc(a.dead, func(d int) bool { return v[d-1] != first[d-1] })
				}
				a.sample.add(h.text, norm, v)
			}
		}
		a.vectors = append(a.vectors, h)
	}, fmt.Sprintf("SELECT rowid, coalesce(text_hash, 0::UHUGEINT), chunk_id IS NOT NULL, %s FROM %s", a.embedding(), a.e))
	slices.SortFunc(a.vectors, byRow) // they usually are in this order
	return err
}

// embedding is the SQL for a vector as an array. It is NULL if the vector has another
// length.
func (a *audit) embedding() string {
	array := fmt.Sprintf("FLOAT[%d]", a.space.Dim)
	if a.columns["embedding"] == array {
		return "embedding"
	}
	return "TRY_CAST(embedding AS " + array + ")"
}

// otherLength is the SQL for the condition that a vector has another length, or NULL
// in place of a value.
func (a *audit) otherLength() string {
	sql := fmt.Sprintf("list_count(embedding::FLOAT[]) IS DISTINCT FROM %d", a.space.Dim)
	if a.embedding() != "embedding" { // a list
		sql = fmt.Sprintf("(%s OR len(embedding) <> %d)", sql, a.space.Dim)
	}
	return sql
}

// where is the SQL for the rows whose norm, the length of the vector, meets a
// condition. It is NULL for a vector with another number of values.
func (a *audit) where(condition string) string {
	return fmt.Sprintf("rowid IN (SELECT row FROM (SELECT rowid AS row, sqrt(CASE WHEN NOT %s THEN list_inner_product(embedding::DOUBLE[], embedding::DOUBLE[]) END) AS norm FROM %s) WHERE %s)", a.otherLength(), a.e, condition)
}

// again says how to replace vectors that were deleted.
const again = "delete these vectors and run the pipe; each of their texts is paid for again"

// judgeVectors judges what read has found.
func (a *audit) judgeVectors() {
	length, finite, zero := a.add("length", len(a.vectors)), a.add("not_finite", 0), a.add("zero", 0)
	n := 0
	for i := range a.vectors {
		if a.vectors[i].sound() {
			n++
		}
	}
	sound := make([]reading, 0, n) // growing step by step would take twice the memory
	for i := range a.vectors {
		switch r := &a.vectors[i]; {
		case r.norm == wrongLength:
			a.found(length, r.row, r.chunk)
		case r.norm != r.norm:
			a.found(finite, r.row, r.chunk)
		case r.norm == 0:
			a.found(zero, r.row, r.chunk)
		default:
			sound = append(sound, *r)
		}
	}
	finite.Of, zero.Of = length.Of-length.Count, length.Of-length.Count
	if length.Count > 0 {
		length.Message = fmt.Sprintf("these vectors do not have %d values: %s", a.space.Dim, again)
		length.Fix = a.remove(a.otherLength())
	}
	if finite.Count > 0 {
		finite.Message = "these vectors have values that are not finite: " + again
		finite.Fix = a.remove(a.where("NOT isfinite(norm)"))
	}
	if zero.Count > 0 {
		zero.Message = "all values of these vectors are 0: " + again
		zero.Fix = a.remove(a.where("norm = 0"))
	}
	a.judgeNorms(sound)
	different := a.judgeEqual(sound)
	dead := a.add("dead", 0)
	if different < enough {
		dead.Skipped = fmt.Sprintf("there are only %d different vectors, and it takes %d", different, enough)
	} else if dead.Of = int64(a.space.Dim); len(a.dead) > 0 {
		dead.Count, dead.Dims = int64(len(a.dead)), a.dead
		dead.Message = "these dimensions have the same value in all vectors: " + renew
	}
	collapsed := a.add("collapsed", 0)
	mean, n := a.sample.mean()
	if n < enough {
		collapsed.Skipped = fmt.Sprintf("there are only %d different texts, and it takes %d", n, enough)
		return
	}
	collapsed.Of, collapsed.MeanCosine = 1, rounded(mean)
	if mean > mostMean {
		collapsed.Count = 1
		collapsed.Message = fmt.Sprintf("the vectors of different texts have a mean cosine of %.3f, so searches cannot tell them apart: see whether the texts of --from are the right ones, and %s", mean, renew)
	}
}

// renew says what to do about a fault of all vectors.
const renew = "compare some vectors with new ones (--against); if they differ, give the chunks a new table (chunks-pending --embeddings NAME), which pays for all texts again"

// nearOne is how far the length of a vector may be from 1 if its model gives vectors
// of length 1.
const nearOne = 0.01

// judgeNorms finds vectors whose length does not fit the others, or the model. Some
// models give vectors of length 1. gemini-embedding-001 does only at 3072 values: its
// shorter vectors are parts of those, so they are at most as long, and
// gbatch-fetch --normalize gives them length 1.
func (a *audit) judgeNorms(sound []reading) {
	v := a.add("norm", len(sound))
	if len(sound) == 0 {
		return
	}
	norms := make([]float32, len(sound))
	for i, r := range sound {
		norms[i] = r.norm
	}
	slices.Sort(norms)
	isOne := func(n float32) bool { return math.Abs(float64(n)-1) <= nearOne }
	others := slices.DeleteFunc(slices.Clone(norms), isOne)
	median := float64(norms[len(norms)/2])
	v.LeastNorm, v.MedianNorm, v.MostNorm = rounded(float64(norms[0])), rounded(median), rounded(float64(norms[len(norms)-1]))

	m := model.Lookup(a.space.Model)
	least, most := median/4, median*4
	one := m.UnitLength || m.Known && a.space.Dim == model.MaxDim
	if one {
		least, most = 1-nearOne, 1+nearOne
	} else if m.Known {
		most = min(most, 1+nearOne)
		least = min(least, most/4)
	}
	ones := len(norms) - len(others)
	// A length between 0.95 and 1.05 does no harm beside 1.
	mixed := !one && ones > 0 && len(others) > 0 && math.Abs(float64(others[len(others)/2])-1) > 0.05
	for _, r := range sound {
		n := float64(r.norm)
		if n < least || n > most || mixed && isOne(r.norm) == (ones < len(others)) {
			a.found(v, r.row, r.chunk)
		}
	}
	switch {
	case v.Count == 0:
	case mixed:
		v.Message = fmt.Sprintf("%d vectors have length 1 and %d do not, so their inner products cannot be compared (their cosines can): give all of them length 1, which costs nothing, and use gbatch-fetch --normalize from now on", ones, len(others))
		v.Fix = a.statement(fmt.Sprintf("UPDATE %s SET embedding = [x / sqrt(list_inner_product(embedding::DOUBLE[], embedding::DOUBLE[])) for x in embedding::DOUBLE[]]::%s WHERE %s",
			a.e, a.columns["embedding"], a.where(fmt.Sprintf("isfinite(norm) AND norm > 0 AND abs(norm - 1) > %g", nearOne))))
	default:
		like := "other vectors"
		if one {
			like = "vectors of this model"
		}
		v.Message = fmt.Sprintf("the lengths of these vectors are not between %.3g and %.3g, as those of the %s are: %s", least, most, like, again)
		v.Fix = a.remove(a.where(fmt.Sprintf("isfinite(norm) AND norm > 0 AND norm NOT BETWEEN %g AND %g", least, most)))
	}
}

// judgeEqual finds equal vectors of different texts, and returns how many different
// vectors there are. It changes the order of sound.
func (a *audit) judgeEqual(sound []reading) (different int) {
	v := a.add("equal", len(sound))
	slices.SortFunc(sound, func(a, b reading) int { return cmp.Compare(a.hash, b.hash) })
	var wrong []reading
	for begin := 0; begin < len(sound); different++ {
		end, texts := begin+1, 1
		for ; end < len(sound) && sound[end].hash == sound[begin].hash; end++ {
			if sound[end].text != sound[begin].text {
				texts++
			}
		}
		if texts > 1 {
			wrong = append(wrong, sound[begin:end]...)
		}
		begin = end
	}
	slices.SortFunc(wrong, byRow)
	for _, r := range wrong {
		a.found(v, r.row, r.chunk)
	}
	if v.Count > 0 {
		v.Message = "these vectors are equal bit for bit, but their texts differ. This is right only if the texts differ after the model's limit of tokens. Otherwise " + again
		v.Fix = a.remove("embedding IN (SELECT embedding FROM " + a.e + " GROUP BY embedding HAVING count(DISTINCT text_hash) > 1)")
	}
	return different
}

// mostMean is the mean cosine above which the vectors of different texts are too much
// alike.
const mostMean = 0.95

// A sample holds the vectors of the texts with the smallest hashes: a random choice
// of texts that depends on nothing else, and has each text once.
type sample struct {
	chosen []sampled
	limit  uint64 // no text with a larger hash is chosen; 0: there is no limit yet
}

type sampled struct {
	text   uint64
	norm   float64
	values []float32
}

// sampleSize is how many vectors are compared with each other.
const sampleSize = 1000

func (s *sample) add(text uint64, norm float64, v []float32) {
	if s.limit > 0 && text > s.limit {
		return
	}
	if len(s.chosen) == 2*sampleSize {
		if s.cut(); text > s.limit && s.limit > 0 {
			return
		}
	}
	s.chosen = append(s.chosen, sampled{text, norm, slices.Clone(v)})
}

// cut keeps the smallest hashes, each once.
func (s *sample) cut() {
	slices.SortStableFunc(s.chosen, func(a, b sampled) int { return cmp.Compare(a.text, b.text) })
	s.chosen = slices.CompactFunc(s.chosen, func(a, b sampled) bool { return a.text == b.text })
	if len(s.chosen) >= sampleSize {
		s.chosen = s.chosen[:sampleSize]
		s.limit = s.chosen[sampleSize-1].text
	}
}

// mean returns the mean cosine of all pairs of n vectors. The sum of the cosines of
// all pairs follows from the length of the sum of the unit vectors.
func (s *sample) mean() (mean float64, n int) {
	if s.cut(); len(s.chosen) < 2 {
		return 0, len(s.chosen)
	}
	sums := make([]float64, len(s.chosen[0].values))
	for _, c := range s.chosen {
		for i, x := range c.values {
			sums[i] += float64(x) / c.norm
		}
	}
	var square float64
	for _, x := range sums {
		square += x * x
	}
	k := float64(len(s.chosen))
	return (square - k) / (k * (k - 1)), len(s.chosen)
}

// rounded is a number for a record: its first six digits.
func rounded(x float64) *float64 {
	x, _ = strconv.ParseFloat(strconv.FormatFloat(x, 'g', 6, 64), 64)
	return &x
}
