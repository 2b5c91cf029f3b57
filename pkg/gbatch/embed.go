package gbatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
	"gbatch/pkg/render"
	"gbatch/pkg/vector"
	"gbatch/pkg/wire"
)

const (
	// maxTexts is Google's limit for one call (ai.google.dev/api/embeddings).
	maxTexts = 100
	// maxCall is how many bytes of requests a call has, unless one request has more.
	maxCall = 2 << 20
	// hopeless is the number of texts after which a run ends in which each text was
	// refused: the cause is not the texts.
	hopeless = 10
)

// linger is how long a call that is not full waits for more texts.
var linger = 50 * time.Millisecond

// Embed embeds chunks at once, by online calls: questions, and texts that cannot
// wait for a batch.
type Embed struct {
	cli.Files         `embed:""`
	cli.Output        `embed:""`
	render.SpaceFlags `embed:""`

	Text      []string      `help:"Also embed this text, after the input. It is its own key." placeholder:"TEXT" sep:"none" env:"-"`
	Array     bool          `help:"Print vectors as arrays of numbers, for other programs, in place of base64."`
	Normalize bool          `help:"Scale vectors to length 1. gemini-embedding-001 does so itself only at 3072 values."`
	NoCache   bool          `help:"Do not use the cache of questions."`
	Parallel  int           `help:"How many calls are sent at a time." default:"4"`
	RetryFor  time.Duration `help:"How long to retry transient errors." default:"10m"`

	Caps `embed:""`
}

// Run prints the answers in the order of the chunks.
func (e *Embed) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	if e.Parallel < 1 {
		return exit.Errorf(exit.Usage, "--parallel must be at least 1")
	}
	own, err := e.texts()
	if err != nil {
		return err
	}
	plain, err := e.Plain()
	if err != nil {
		return err
	}
	prices, err := model.ReadPrices()
	if err != nil {
		return err
	}
	caps, err := e.caps(&prices)
	if err != nil {
		return err
	}
	g, err := newGemini(e.RetryFor)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r := &embedding{Embed: e, gemini: g, cache: new(cache), caps: caps, prices: prices, spent: map[string]tokens{}, job: record.Job{Succeeded: new(int), Failed: new(int)}, done: progress.Of(ctx).Flow("texts")}
	if !e.NoCache {
		r.cache = openCache(g.base)
	}
	texts, calls := make(chan *text, maxTexts), make(chan *call, e.Parallel-1)
	var readErr error
	go func() {
		defer close(texts)
		readErr = r.read(ctx, plain, texts, in, own)
		r.done.Final()
	}()
	go r.group(ctx, texts, calls)
	w := ndjson.NewWriter(out)
	for c := range until(ctx, calls) {
		for range until(ctx, c.ended) { // it is closed
		}
		if ctx.Err() != nil {
			break
		}
		if err = r.print(w, c); err != nil {
			break
		}
	}
	if flushed := w.Flush(); err == nil {
		err = flushed
	}
	r.cache.prune()
	r.report()
	switch {
	case err != nil:
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	default:
		err = readErr
	}
	if r.printed > 0 { // these answers are paid for
		err = exit.Keep(err)
	}
	if err != nil {
		return err
	}
	if r.failed > 0 {
		return exit.Errorf(exit.Partial, "%s of %s failed", commas(r.failed), count(r.printed, "key"))
	}
	return nil
}

// OutputLost says what it means if the file of --output cannot be written.
func (*Embed) OutputLost() string {
	return "the vectors are lost, except those of questions, which are in the cache: the next run pays for the others again"
}

// An embedding is one run of Embed.
type embedding struct {
	*Embed
	gemini *gemini
	cache  *cache
	caps   model.Caps // only read uses them
	prices model.Prices
	done   *progress.Count

	embedded, refused atomic.Int64 // texts

	// Only print and report use the members below.
	space                 model.Space // of the last space record
	job                   record.Job  // the record that closes the present batch
	batch                 tokens      // of the present batch
	printed, failed, hits int         // keys; hits are those whose vector was in the cache
	spent                 map[string]tokens
}

// Tokens are those of some texts: Google's count, and the estimate for the texts
// that Google did not count.
type tokens struct{ counted, estimated int64 }

func (t tokens) plus(o tokens) tokens {
	return tokens{t.counted + o.counted, t.estimated + o.estimated}
}

// A text is a chunk that is to be embedded, and its answer.
type text struct {
	key     string
	space   model.Space
	batch   string // "" if the chunk has no header
	last    bool   // it is the last chunk of its batch
	request []byte
	tokens  int64 // the estimate

	values  []float32
	cached  bool  // the values are from the cache
	counted int64 // Google's count for this text; -1: unknown
	err     *record.Status
}

// caches reports whether the text's vector is in the cache, or is stored there: a
// question's is. The vectors of documents are kept in a database.
func (t *text) caches() bool { return t.batch == "" && !t.space.TakesTitle() }

// texts are the texts of --text as chunks.
func (e *Embed) texts() (io.Reader, error) {
	var lines bytes.Buffer
	for _, text := range e.Text {
		if !utf8.ValidString(text) || strings.TrimSpace(text) == "" {
			return nil, exit.Errorf(exit.Usage, "--text %q is empty or not UTF-8", text)
		}
		line, err := ndjson.Marshal(map[string]string{"id": text, "text": text})
		if err != nil {
			return nil, err
		}
		lines.Write(append(line, '\n'))
	}
	return &lines, nil
}

// read reads chunks, and sends them as texts. plain is the space of chunks
// without a header. After the end of in it reads own.
func (r *embedding) read(ctx context.Context, plain model.Space, texts chan<- *text, in, own io.Reader) error {
	lines := ndjson.NewReader(in)
	var chunk record.RawChunk
	var batch record.Header
	var sum record.KeySum
	left := 0 // chunks of the batch that are to come
	space, form, estimator := plain, render.NewOnline(plain), plain.Estimator(1)
	enter := func(s model.Space) {
		if s != space {
			space, form, estimator = s, render.NewOnline(s), s.Estimator(1)
		}
	}
	whole := func() error {
		if left == 0 {
			return nil
		}
		return lines.Errorf("batch %.100q: %d of its %d chunks are missing: a command earlier in the pipe ended early; run the whole pipe again", batch.Batch, left, batch.Count)
	}
	for {
		line, err := lines.Next()
		if err == io.EOF {
			if err := whole(); err != nil || own == nil {
				return err
			}
			lines, own = ndjson.NewReader(own), nil
			continue
		}
		if err != nil {
			return err
		}
		if said, is, err := record.ParseSpace(line); is {
			if err != nil {
				return lines.Errorf("%w", err)
			}
			if err := whole(); err != nil {
				return err
			}
			if plain, err = r.Asked(said); err != nil {
				return exit.With(exit.Code(err), lines.Errorf("%w", err))
			}
			enter(plain)
			continue
		}
		header, err := chunk.Parse(line, &batch)
		if err != nil {
			return lines.Errorf("%w", err)
		}
		if header {
			if err := whole(); err != nil {
				return err
			}
			s, err := r.Of(batch.Space(), fmt.Sprintf("batch %.100q", batch.Batch))
			if err == nil {
				err = submitted(batch.Batch)
			}
			if err == nil {
				batch.Model = s.Model
				err = r.afford(batch)
			}
			if err != nil {
				return exit.With(exit.Code(err), lines.Errorf("%w", err))
			}
			if left, sum = batch.Count, 0; left > 0 {
				enter(s)
			}
			continue
		}
		if chunk.End {
			if err := whole(); err != nil {
				return err
			}
			continue
		}
		body := chunk.Text
		if chunk.Context != nil {
			body = chunk.Context
		}
		t := &text{key: string(chunk.Key), space: space, counted: -1, request: form.Append(nil, &chunk)}
		estimate := estimator.Request(string(ndjson.Unescape(chunk.Title)), string(ndjson.Unescape(body)))
		t.tokens = estimate.Likely
		if left == 0 {
			if err := r.use(model.Use{Model: space.Model, Tokens: estimate.Max}); err != nil {
				return exit.With(exit.Refused, lines.Errorf("key %.100q is not embedded: %w; run it again with a higher cap", t.key, err))
			}
		}
		if left > 0 {
			sum.Add(t.key)
			left--
			t.batch, t.last = batch.Batch, left == 0
			if t.last {
				enter(plain)
				if batch.Keys != "" && batch.Keys != sum.String() {
					return lines.Errorf("batch %.100q has other keys than its header announces: run the whole pipe again", batch.Batch)
				}
			}
		}
		r.done.Expect(1)
		select {
		case texts <- t:
		case <-ctx.Done():
			return nil
		}
	}
}

// afford returns an error if the caps do not allow a batch.
func (r *embedding) afford(batch record.Header) error {
	if r.caps == nil {
		return nil
	}
	u, err := useOf(batch)
	if err == nil {
		err = r.use(u)
	}
	if err != nil {
		err = exit.Errorf(exit.Refused, "batch %.100q is not embedded, and nothing of it was sent: %w; it stays claimed, and the next chunks-pending prints it again: run the whole pipe with a higher cap, or give it back with chunks-release", batch.Batch, err)
	}
	return err
}

// use counts tokens in the caps, or returns an error if the caps do not allow them.
func (r *embedding) use(u model.Use) error {
	u.Online = true
	if err := r.caps.Check(u); err != nil {
		return err
	}
	return r.caps.Use(u)
}

// submitted refuses a batch that has a job, or may have one: it would be paid for
// twice.
func submitted(batch string) error {
	l, err := ledger.Look()
	if err != nil {
		return err
	}
	for _, name := range l.Names() {
		if ledger.Batch(name) != batch {
			continue
		}
		sure := false
		if e, err := l.Try(name); err == nil && e != nil { // no gbatch-submit is working on it
			sure = e.Mark().Phase == ledger.Upload
			e.Close()
		}
		if !sure {
			return fmt.Errorf("batch %.100q was submitted as a job, or may have been, and would be paid for twice: run the pipe with gbatch-submit, gbatch-wait and gbatch-fetch, or give the batch back with chunks-release", batch)
		}
	}
	return nil
}

// A call is some texts of one space and one batch, which are sent together.
type call struct {
	texts []*text
	bytes int
	ended chan struct{}
	spent tokens
	err   error // why the run cannot go on
}

// takes reports whether a text may be sent with the others.
func (c *call) takes(t *text) bool {
	first := c.texts[0]
	return len(c.texts) < maxTexts && c.bytes+len(t.request) <= maxCall && first.space == t.space && first.batch == t.batch
}

// group groups texts to calls and sends the calls, as many at a time as --parallel
// allows: calls takes one less than that, and the reader of calls waits for one.
func (r *embedding) group(ctx context.Context, texts <-chan *text, calls chan<- *call) {
	defer close(calls)
	var c *call
	var full <-chan time.Time
	send := func() {
		select {
		case calls <- c:
			go r.run(ctx, c)
		case <-ctx.Done():
		}
		c = nil
	}
	for ctx.Err() == nil {
		select {
		case t, more := <-texts:
			if c != nil && (!more || !c.takes(t)) {
				send()
			}
			if !more {
				return
			}
			if c == nil {
				c, full = &call{ended: make(chan struct{})}, time.After(linger)
			}
			c.texts, c.bytes = append(c.texts, t), c.bytes+len(t.request)
		case <-full:
			if full = nil; c != nil {
				send()
			}
		case <-ctx.Done():
		}
	}
}

// run answers the texts of a call.
func (r *embedding) run(ctx context.Context, c *call) {
	defer close(c.ended)
	var missing []*text
	for _, t := range c.texts {
		if t.caches() {
			t.values = r.cache.get(t.request)
		}
		if checkVector(t.values, t.space.Dim, false) == nil {
			t.cached = true
		} else {
			missing = append(missing, t)
		}
	}
	c.err = r.embed(ctx, c, missing)
}

// embed sends texts in one call. Google refuses a whole call because of one text.
// Then the halves are sent, so that the other texts are answered: one bad text in
// a hundred costs 14 more calls. No text is paid for twice by this, because Google
// charges nothing for a call that it refuses. An error means that the run cannot
// go on.
func (r *embedding) embed(ctx context.Context, c *call, texts []*text) error {
	if len(texts) == 0 {
		return nil
	}
	var requests [][]byte
	for _, t := range texts {
		requests = append(requests, t.request)
	}
	values, counted, err := r.gemini.embedContents(ctx, texts[0].space.Model, requests)
	switch {
	case err == nil:
		r.embedded.Add(int64(len(texts)))
		r.answer(c, texts, values, counted)
		return nil
	case !ofText(err):
		return err
	case len(texts) > 1:
		half := len(texts) / 2
		if err := r.embed(ctx, c, texts[:half]); err != nil {
			return err
		}
		return r.embed(ctx, c, texts[half:])
	}
	if r.refused.Add(1) >= hopeless && r.embedded.Load() == 0 {
		return fmt.Errorf("the first %d texts were refused, so the cause is not the texts: %w", hopeless, err)
	}
	status := internal("%v", err)
	var e *wire.Error
	if errors.As(err, &e) {
		status = &record.Status{Code: e.HTTP, Status: e.Status, Message: e.Message}
	}
	texts[0].err = canonical(*status)
	return nil
}

// ofText reports whether a call may have failed because of one of its texts.
func ofText(err error) bool {
	var e *wire.Error
	if errors.As(err, &e) {
		return !e.Auth() && (e.HTTP == 413 || e.HTTP == 400 && e.Status != codeName(9)) // FAILED_PRECONDITION is about the project
	}
	return errors.As(err, new(wrongReply))
}

// answer gives texts their values. counted is Google's count of the tokens of all
// of them, or -1.
func (r *embedding) answer(c *call, texts []*text, values [][]float32, counted int64) {
	if counted >= 0 {
		c.spent.counted += counted
		if len(texts) == 1 {
			texts[0].counted = counted
		}
	}
	for i, t := range texts {
		if counted < 0 {
			c.spent.estimated += t.tokens
		}
		t.values, t.err = values[i], checkVector(values[i], t.space.Dim, false)
		if t.err == nil && !(vector.Cosine(t.values, t.values) > 0) {
			t.err = internal("a vector without a direction")
		}
		if t.err != nil {
			t.err = canonical(*t.err)
		} else if t.caches() {
			r.cache.put(t.request, t.values)
		}
	}
}

// print prints the answers of a call. If the run cannot go on, these are the
// answers before the first text that has none. After the last answer of a batch
// print prints a job record, which closes the batch.
func (r *embedding) print(w *ndjson.Writer, c *call) error {
	first := c.texts[0]
	if first.batch != r.job.Batch {
		r.batch = tokens{}
		r.job = record.Job{Job: record.OnlinePrefix + first.batch, Batch: first.batch, State: record.Succeeded, Model: first.space.Model, Dim: first.space.Dim, Succeeded: new(int), Failed: new(int)}
	}
	r.spent[first.space.Model] = r.spent[first.space.Model].plus(c.spent)
	r.batch = r.batch.plus(c.spent)
	for _, t := range c.texts {
		if t.values == nil && t.err == nil {
			break
		}
		b := w.Begin()
		if t.batch == "" && t.space != r.space {
			r.space = t.space
			b = record.AppendSpace(b, t.space)
		}
		if t.err == nil && r.Normalize {
			vector.Normalize(t.values)
		}
		if t.err == nil {
			b = record.VectorLine(r.Array)(b, t.key, t.batch, t.values, t.counted)
			*r.job.Succeeded++
		} else {
			line, err := ndjson.Marshal(record.KeyError{Key: t.key, Batch: t.batch, Error: *t.err})
			if err != nil {
				return err
			}
			b = append(append(b, line...), '\n')
			*r.job.Failed++
			r.failed++
		}
		if t.cached {
			r.hits++
		}
		r.printed++
		r.job.Requests++
		r.done.Add(1)
		if t.last {
			all := r.batch.counted + r.batch.estimated
			if r.batch.estimated > 0 {
				r.job.Estimated = &all
			} else {
				r.job.Tokens = &all
			}
			line, err := ndjson.Marshal(&r.job)
			if err != nil {
				return err
			}
			b = append(append(b, line...), '\n')
		}
		if err := w.End(b[:len(b)-1]); err != nil { // End adds the line end
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return c.err
}

// report says how many texts were embedded, and what they cost.
func (r *embedding) report() {
	if r.printed == 0 {
		return
	}
	var all tokens
	var usd float64
	priced := true
	for name, t := range r.spent {
		all.counted += t.counted
		all.estimated += t.estimated
		cost, known := r.prices.Online(name, t.counted+t.estimated)
		usd, priced = usd+cost, priced && known
	}
	word := ""
	if all.estimated > 0 {
		word = "estimated_"
	}
	attrs := []any{"texts", r.printed - r.failed - r.hits, "from_cache", r.hits, word + "tokens", all.counted + all.estimated}
	if priced {
		attrs = append(attrs, word+"cost", model.Money(usd))
	}
	slog.Info("embedded at the price of online calls", attrs...)
}
