package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"gbatch/pkg/record"
)

// create creates a data file.
func create(path string, write func(w *bufio.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// results writes n lines of Google's results. One in a thousand is an error. The
// vectors have about unit length, and their values the shortest digits of
// float32s or float64s.
func (b *bench) results(path string, n, dim, bits int) error {
	random := rand.New(rand.NewPCG(b.seed, uint64(dim)))
	return create(path, func(w *bufio.Writer) error {
		var line []byte
		for i := range n {
			line = line[:0]
			if i%1000 == 500 {
				line = fmt.Appendf(line, `{"key":"chunk_%d","error":{"code":13,"status":"INTERNAL","message":"An internal error has occurred"}}`+"\n", i)
			} else {
				line = append(line, `{"response":{"tokenCount":"`...)
				line = strconv.AppendInt(line, 100+random.Int64N(400), 10)
				line = append(line, `","embedding":{"values":[`...)
				for j := range dim {
					if j > 0 {
						line = append(line, ',')
					}
					x := random.NormFloat64() / math.Sqrt(float64(dim))
					if bits == 32 {
						x = float64(float32(x))
					}
					line = strconv.AppendFloat(line, x, 'g', -1, bits)
				}
				line = fmt.Appendf(line, `]}},"key":"chunk_%d"}`+"\n", i)
			}
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
		return nil
	})
}

// predictions writes n lines of results of Vertex AI: before each vector stands the
// request that it answers.
func (b *bench) predictions(path string, n int) error {
	random := rand.New(rand.NewPCG(b.seed, 8))
	return create(path, func(w *bufio.Writer) error {
		var line []byte
		for i := range n {
			line = fmt.Appendf(line[:0], `{"key":"chunk_%d","request":{"content":{"parts":[{"text":"Passage %d:`, i, i)
			for end := len(line) + 800; len(line) < end; {
				line = append(append(line, ' '), mixed[random.IntN(len(mixed))]...)
			}
			line = append(line, `"}]},"embed_content_config":{"output_dimensionality":768,"task_type":"RETRIEVAL_DOCUMENT"}},"status":"","response":{"tokenCount":"210","embedding":{"values":[`...)
			for j := range 768 {
				if j > 0 {
					line = append(line, ',')
				}
				line = strconv.AppendFloat(line, float64(float32(random.NormFloat64()/math.Sqrt(768))), 'g', -1, 32)
			}
			if _, err := w.Write(append(line, "]}}}\n"...)); err != nil {
				return err
			}
		}
		return nil
	})
}

// These are words for texts. The mixed words change the length of their runes
// unpredictably, which is the worst case for a check of UTF-8.
var (
	ascii = strings.Fields("a line of plain English words that stand in no order, with (some) marks; numbers such as 1024 or 3.5 and names like Ada between them")
	mixed = strings.Fields("plain words и русские слова, français déjà vu, 漢字とかな 東京都 서울 עברית नमस्ते ελληνικά 😀 👩‍👩‍👧 und größere Zahlen 1024")
)

// perBatch is the number of requests in a batch.
const perBatch = 10_000

// header writes a header before line i of n, if a batch begins there.
func header(w io.Writer, i, n int) {
	if i%perBatch == 0 {
		fmt.Fprintf(w, `{"batch":"b%03d","count":%d,"model":"gemini-embedding-001","dim":768,"task_type":"RETRIEVAL_DOCUMENT"}`+"\n", i/perBatch, min(perBatch, n-i))
	}
}

// chunks writes n chunks with about the given number of bytes of text,
// optionally in batches. No two texts are the same.
func (b *bench) chunks(path string, n, bytes int, words []string, batches bool) error {
	random := rand.New(rand.NewPCG(b.seed, uint64(n)))
	return create(path, func(w *bufio.Writer) error {
		var line []byte
		for i := range n {
			if batches {
				header(w, i, n)
			}
			line = fmt.Appendf(line[:0], `{"id":"chunk_%d","text":"Passage %d: `, i, i)
			for end := len(line) + bytes; len(line) < end; {
				r := random.Uint64()
				line = append(line, words[r%uint64(len(words))]...)
				switch r >> 59 {
				case 0:
					line = append(line, `\n`...)
				case 1:
					line = append(line, `\"`...)
				default:
					line = append(line, ' ')
				}
			}
			line = append(line, `","title":"Chapter one"}`+"\n"...)
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
		return nil
	})
}

// vectors writes what gbatch-fetch would print for the batches that
// chunks-pending printed, and returns the number of vectors.
func (b *bench) vectors(path, claimed string, dim int) (total int, err error) {
	in, err := os.Open(claimed)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	random := rand.New(rand.NewPCG(b.seed, 7))
	err = create(path, func(w *bufio.Writer) error {
		lines := bufio.NewScanner(in)
		lines.Buffer(make([]byte, 1<<20), 16<<20)
		var h record.Header
		var line []byte
		values := make([]float32, dim)
		for n := 0; lines.Scan(); {
			if bytes.HasPrefix(lines.Bytes(), []byte(`{"batch"`)) {
				h, n = record.Header{}, 0
				if err := json.Unmarshal(lines.Bytes(), &h); err != nil {
					return err
				}
				continue
			}
			var c record.Chunk
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				return err
			}
			for i := range values {
				values[i] = float32(random.NormFloat64() / math.Sqrt(float64(dim)))
			}
			line = record.AppendVectorLine(line[:0], c.ID, h.Batch, values, 300)
			if n++; n == h.Count {
				failed, tokens := 0, int64(300*n)
				job, err := json.Marshal(record.Job{Job: "batches/" + h.Batch, Batch: h.Batch, State: record.Succeeded, Model: h.Model, Dim: dim, Requests: n, Succeeded: &n, Failed: &failed, Tokens: &tokens})
				if err != nil {
					return err
				}
				line = append(append(line, job...), '\n')
			}
			total++
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
		return lines.Err()
	})
	return total, err
}
