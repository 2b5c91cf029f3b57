package store

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gbatch/pkg/duck"
	"gbatch/pkg/record"
)

// benchRows is how many chunks the benchmarks have.
const benchRows = 50_000

func benchDB(b *testing.B, rows int) duck.Database {
	db := duck.Database{DB: filepath.Join(b.TempDir(), "kb.duckdb"), LockTimeout: time.Second}
	d := db
	defer d.End()
	err := transact(context.Background(), &d, duck.Create, func(c *duck.Conn) error {
		return c.Exec(fmt.Sprintf("CREATE TABLE chunks AS SELECT 'chunk_' || i AS id, repeat('passage ' || i || ' ', 90) AS text FROM range(%d) t(i)", rows))
	})
	if err != nil {
		b.Fatal(err)
	}
	return db
}

func benchPending(db duck.Database) *Pending {
	return &Pending{Database: db, Claim: Claim{From: "chunks", Model: "gemini-embedding-001", Dim: 768, TaskType: "RETRIEVAL_DOCUMENT",
		Embeddings: "embeddings", MaxRequests: 10_000, MaxBytes: 1e9, MaxTokens: 1e9}}
}

// BenchmarkPending claims and prints. Its bytes are those that it prints.
func BenchmarkPending(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		p := benchPending(benchDB(b, benchRows))
		var n counter
		b.StartTimer()
		if err := p.Run(context.Background(), nil, &n); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(n))
	}
}

type counter int64

func (n *counter) Write(p []byte) (int, error) {
	*n += counter(len(p))
	return len(p), nil
}

// answerAll writes to a file a vector for each chunk that a claim printed, and
// the job records.
func answerAll(b *testing.B, claimed io.Reader, path string) {
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	defer w.Flush()
	values := make([]float32, 768)
	random := rand.New(rand.NewPCG(1, 1))
	var h record.Header
	var line []byte
	n := 0
	r := bufio.NewReaderSize(claimed, 1<<20)
	for {
		text, err := r.ReadBytes('\n')
		if err == io.EOF {
			return
		}
		if bytes.HasPrefix(text, []byte(`{"batch"`)) {
			h = record.Header{}
			if err := json.Unmarshal(text, &h); err != nil {
				b.Fatal(err)
			}
			n = 0
			continue
		}
		var c record.Chunk
		if err := json.Unmarshal(text, &c); err != nil {
			b.Fatal(err)
		}
		for i := range values {
			values[i] = random.Float32() - 0.5
		}
		line = record.AppendVectorLine(line[:0], c.ID, h.Batch, values, 300)
		w.Write(line)
		if n++; n == h.Count {
			failed, tokens := 0, int64(300*n)
			line, err := json.Marshal(record.Job{Job: "batches/x", Batch: h.Batch, State: record.Succeeded, Model: h.Model, Dim: 768, Requests: n, Succeeded: &n, Failed: &failed, Tokens: &tokens})
			if err != nil {
				b.Fatal(err)
			}
			w.Write(append(line, '\n'))
		}
	}
}

// BenchmarkApply applies vectors of 768 values, with commit and checkpoint. For
// comparison, DuckDB creates a table of the same vectors from a Parquet file.
func BenchmarkApply(b *testing.B) {
	answers := filepath.Join(b.TempDir(), "answers.ndjson")
	b.Run("gbatch", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			db := benchDB(b, benchRows)
			var claimed bytes.Buffer
			if err := benchPending(db).Run(context.Background(), nil, &claimed); err != nil {
				b.Fatal(err)
			}
			answerAll(b, &claimed, answers)
			in, err := os.Open(answers)
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := (&Apply{Database: db, MaxAttempts: 3}).Run(context.Background(), in, io.Discard); err != nil {
				b.Fatal(err)
			}
			in.Close()
		}
		b.ReportMetric(benchRows*float64(b.N)/b.Elapsed().Seconds(), "vectors/s")
	})
}
