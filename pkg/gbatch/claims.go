package gbatch

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"gbatch/pkg/exit"
	"gbatch/pkg/gcs"
	"gbatch/pkg/ledger"
	"gbatch/pkg/wire"
)

// This file is the ledger that machines share: an object claims/NAME.json for each
// submission. It is created only if there is none, and later replaced only if it is
// still the version that was read. So of two processes that write it, one fails.
//
// A process that dies leaves its claim. A claim in phase upload or create counts until
// its lease has passed since it was written, by Google's clock. The process that holds
// it writes it again and again. If another process has replaced it, the holder's next
// write fails, and it creates no job.

// defaultLease is the lease of processes that create no jobs.
const defaultLease = 5 * time.Minute

// openLedger opens the ledger of this machine and, if bucket is not empty, the ledger
// of all machines that use the bucket. If look is true, the ledger is only read.
func openLedger(bucket string, lease, patience time.Duration, look bool) (ledger.Ledger, error) {
	open := ledger.Open
	if look {
		open = ledger.Look
	}
	folder, err := gcs.ParseURI(bucket)
	if bucket != "" && err != nil {
		return nil, exit.Errorf(exit.Usage, "--bucket: %w", err)
	}
	files, err := open()
	if err != nil || bucket == "" {
		return files, err
	}
	storage, err := newStorage(patience)
	if err != nil {
		return nil, err
	}
	return &claims{files, storage, folder, lease}, nil
}

// newStorage returns a client of Cloud Storage. A server that STORAGE_EMULATOR_HOST
// names needs no credentials.
func newStorage(patience time.Duration) (*gcs.Client, error) {
	if os.Getenv("STORAGE_EMULATOR_HOST") != "" {
		return gcs.New(nil, patience)
	}
	token, err := wire.DefaultToken()
	if err != nil {
		return nil, err
	}
	return gcs.New(token, patience)
}

// claims implements [ledger.Ledger]. Each entry is an entry in files too: that one is
// read by the commands that take a database, and its lock shows that an earlier process
// of this machine is dead.
type claims struct {
	files   *ledger.Files
	storage *gcs.Client
	folder  gcs.Name
	lease   time.Duration
}

func (l *claims) at(name string) gcs.Name { return l.folder.Below("claims/" + name + ".json") }

// read returns a mark and the version of its object, or zero values if there is none.
func (l *claims) read(ctx context.Context, at gcs.Name) (m ledger.Mark, generation int64, err error) {
	line, o, err := l.storage.Read(ctx, at)
	if wire.Missing(err) {
		return m, gcs.None, nil
	}
	if err != nil {
		return m, 0, err
	}
	return ledger.Decode(line), o.Generation, nil
}

// left returns how long a claim may still be held by a living process. here is the
// local mark, whose process is dead. Only Google's clock counts.
func (l *claims) left(ctx context.Context, at gcs.Name, here, there ledger.Mark, generation int64) (time.Duration, error) {
	host, _ := os.Hostname()
	if generation == gcs.None || there.Phase == ledger.Created || there.Released ||
		here.Nonce != "" && strings.HasPrefix(there.Nonce, here.Nonce+"-") && there.Host == host {
		return 0, nil
	}
	o, err := l.storage.Stat(ctx, at)
	lease := time.Duration(there.Lease * float64(time.Second))
	if lease <= 0 {
		lease = defaultLease
	}
	switch {
	case wire.Missing(err):
		return 0, nil // the next write finds out
	case err != nil:
		return 0, err
	case o.Generation != generation || o.Updated.IsZero() || o.Asked.IsZero():
		return lease, nil
	}
	return min(max(lease-o.Asked.Sub(o.Updated), 0), lease), nil
}

// Peek implements [ledger.Ledger].
func (l *claims) Peek(ctx context.Context, name string) (ledger.Entry, error) {
	local, err := l.files.Peek(ctx, name)
	if err != nil {
		return nil, err
	}
	there, generation, err := l.read(ctx, l.at(name))
	if err != nil {
		return nil, err
	}
	left, err := l.left(ctx, l.at(name), local.Mark(), there, generation)
	if err == nil && left > 0 {
		err = ledger.ErrHeld
	}
	return ledger.Peeked{Last: ledger.Farther(there, local.Mark()), Where: l.at(name).String()}, err
}

// Others implements [ledger.Ledger].
func (l *claims) Others(ctx context.Context, name, hash string) ([]ledger.Mark, error) {
	marks, err := l.files.Others(ctx, name, hash)
	if err != nil {
		return nil, err
	}
	err = l.storage.List(ctx, l.folder.Below("claims/"), func(page []*gcs.Object) (bool, error) {
		for _, o := range page {
			if !strings.HasSuffix(o.Object, "-"+hash+".json") || o.Name == l.at(name) {
				continue
			}
			m, _, err := l.read(ctx, o.Name)
			if err != nil {
				return false, err
			}
			marks = append(marks, m)
		}
		return true, nil
	})
	return marks, err
}

// A claim is an entry of claims.
type claim struct {
	*claims
	name  string
	local ledger.Entry
	id    string // of this machine for this submission: the local entry has it
	nonce string // of this process: id and a random text

	mu         sync.Mutex
	mark       ledger.Mark // what was set last
	stored     ledger.Mark // what the object holds
	generation int64       // its version
	noted      bool        // the local entry stays
	lost       error       // another process has replaced the object
	release    func()      // ends the renewal; nil if the claim is not held
}

// errReplaced is the error of a write that found another process's claim.
var errReplaced = errors.New("another process has taken it")

// Claim implements [ledger.Ledger].
func (l *claims) Claim(ctx context.Context, name string, patience time.Duration) (ledger.Entry, error) {
	end := time.Now().Add(patience)
	local, err := l.files.Claim(ctx, name, patience)
	if err != nil {
		return nil, err
	}
	c := &claim{claims: l, name: name, local: local, id: cmp.Or(local.Mark().Nonce, rand.Text())}
	c.nonce = c.id + "-" + rand.Text()
	c.noted = local.Mark().Phase != ""
	if err := c.take(ctx, end); err != nil {
		c.closeLocal()
		return nil, err
	}
	return c, nil
}

// take waits until no living process holds the claim, and takes it. A claim in phase
// created is not held by any process: it is only read.
func (c *claim) take(ctx context.Context, end time.Time) error {
	here, told := c.local.Mark(), false
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		there, generation, err := c.read(ctx, c.at(c.name))
		if err != nil {
			return err
		}
		left, err := c.left(ctx, c.at(c.name), here, there, generation)
		if err != nil {
			return err
		}
		if left == 0 {
			c.generation, c.stored, c.mark = generation, there, ledger.Farther(there, here)
			c.mark.Released = false
			if here.Session != "" && cmp.Or(c.mark.Input, here.Input) == here.Input { // only this machine knows it
				c.mark.Input, c.mark.Session = here.Input, here.Session
			}
			if here.Phase == ledger.Created && there.Phase == ledger.Created && here.Job != there.Job {
				slog.Warn("this machine and another one have noted different jobs for one batch; the one of the bucket is adopted", "batch", here.Batch, "bucket", there.Job, "here", here.Job)
			}
			if err := c.enter(ctx); !errors.Is(err, errReplaced) {
				return err
			}
			left = wait
		}
		if wait = min(wait, left+50*time.Millisecond); time.Now().Add(wait).After(end) {
			return exit.Errorf(exit.TryLater, "%w: process %d on %s holds %s, which counts for another %v; try again then", ledger.ErrHeld, there.PID, cmp.Or(there.Host, "an unknown machine"), c.at(c.name), left.Round(time.Second))
		}
		if !told {
			told = true
			slog.Info("waiting for another machine that is submitting this batch", "claim", c.at(c.name), "host", there.Host, "pid", there.PID, "held", left.Round(time.Second))
		}
		if err := wire.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// enter writes the mark of an earlier process as this process's claim. The id is on
// disk before that: if this process dies, the next one on this machine knows that the
// claim is its own. The local entry does not repeat what the claim says, unless that is
// a receipt.
func (c *claim) enter(ctx context.Context) error {
	begun := ledger.Mark{Name: c.name, Batch: ledger.Batch(c.name), SHA256: c.name[strings.LastIndexByte(c.name, '-')+1:], Phase: ledger.Upload}
	m, here := c.mark, c.local.Mark()
	if m.Phase == "" {
		m = begun
	}
	note := here
	switch {
	case m.Phase == ledger.Created:
		note, c.noted = m, true
	case here.Phase == "":
		note = begun
	}
	if here.Nonce != c.id || here.Phase != note.Phase || here.Job != note.Job {
		if err := c.setLocal(ctx, note); err != nil {
			return err
		}
	}
	if c.same(m) {
		return nil
	}
	err := c.write(ctx, m)
	if err == nil {
		c.hold(m)
	}
	return err
}

func (c *claim) setLocal(ctx context.Context, m ledger.Mark) error {
	m.Nonce, m.Lease, m.Released = c.id, 0, false
	return c.local.Set(ctx, m)
}

// same reports whether the object says already what m says. How far an upload has come
// is of no use to other machines.
func (c *claim) same(m ledger.Mark) bool {
	held := m.Phase == ledger.Created && c.stored.Input == m.Input || m.Phase == ledger.Upload && c.release != nil
	return held && c.stored.Phase == m.Phase && c.stored.Job == m.Job
}

// write replaces the object by m, without the session, which is a secret.
func (c *claim) write(ctx context.Context, m ledger.Mark) error {
	m.Nonce, m.Lease, m.Session = c.nonce, c.lease.Seconds(), ""
	line, err := ledger.Encode(m)
	if err != nil {
		return err
	}
	return c.change(ctx, func() error {
		// The nonce stands in the metadata too: that is compared if a reply was lost.
		o, err := c.storage.Insert(ctx, c.at(c.name), c.generation, line, gcs.Content{Type: "application/json", Metadata: map[string]string{"nonce": c.nonce}})
		if err == nil {
			c.generation, c.stored = o.Generation, m
		}
		return err
	})
}

// change makes a call on the version of the object that this process knows. If the
// object is a later write of this process, whose reply was lost, the call is made on
// that version.
func (c *claim) change(ctx context.Context, call func() error) error {
	for {
		err := call()
		if !gcs.NotMet(err) {
			return err
		}
		there, generation, e := c.read(ctx, c.at(c.name))
		switch {
		case e != nil:
			return e
		case there.Nonce != c.nonce:
			return errReplaced
		case generation == c.generation:
			return err
		}
		c.generation = generation
	}
}

func (c *claim) Mark() ledger.Mark { return c.mark }

func (c *claim) String() string { return c.local.String() + " and " + c.at(c.name).String() }

// Set implements [ledger.Entry]. The shared ledger is written first: if this process has
// lost its claim, its local entry does not say that it sent a create.
func (c *claim) Set(ctx context.Context, m ledger.Mark) error {
	if m.Phase == ledger.Created { // the job is printed after this
		short, stop := context.WithTimeout(ctx, sharedTimeout)
		defer stop()
		ctx = short
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.lost
	if err == nil && !c.same(m) {
		err = c.lose(c.write(ctx, m))
	}
	if err == nil || m.Phase == ledger.Created {
		if e := c.setLocal(ctx, m); err == nil {
			err = e
		}
	}
	if err != nil && m.Phase != ledger.Created {
		return err
	}
	c.mark, c.noted = m, true
	c.hold(m)
	return err
}

// lose notes that the claim was lost, if err says so.
func (c *claim) lose(err error) error {
	if errors.Is(err, errReplaced) {
		c.lost = exit.Errorf(exit.TryLater, "%s is not the claim of this process any more: another process has taken it, because this one was silent for longer than --lease (%v), or somebody has deleted it; try again later", c.at(c.name), c.lease)
		return c.lost
	}
	return err
}

// hold begins to renew the claim, or ends it if the phase m needs no holder.
func (c *claim) hold(m ledger.Mark) {
	switch {
	case m.Phase == ledger.Created && c.release != nil:
		c.release()
		c.release = nil
	case m.Phase != ledger.Created && c.release == nil:
		ctx, stop := context.WithCancel(context.Background())
		c.release = stop
		go c.renew(ctx)
	}
}

// renew writes the claim again at each fifth of the lease, until it is lost.
func (c *claim) renew(ctx context.Context) {
	for wire.Sleep(ctx, c.lease/5) == nil {
		c.mu.Lock()
		if ctx.Err() == nil && c.lost == nil {
			short, stop := context.WithTimeout(ctx, c.lease/10)
			if err := c.lose(c.write(short, c.stored)); err != nil && ctx.Err() == nil {
				slog.Warn("a claim was not renewed", "claim", c.at(c.name), "error", err)
			}
			stop()
		}
		c.mu.Unlock()
	}
}

func (c *claim) Forget() { c.mark, c.noted = ledger.Mark{}, false }

// closeTime bounds the last write of a claim, also if the command was interrupted.
const closeTime = 5 * time.Second

// Close says in the claim that this process has ended, so that the next one need not
// wait for the end of the lease. If nothing was begun, the claim is deleted.
func (c *claim) Close() {
	ctx, stop := context.WithTimeout(context.Background(), closeTime)
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	switch m := c.mark; {
	case c.lost != nil || m.Phase == ledger.Created && c.same(m):
	case m.Phase == "":
		err = c.change(ctx, func() error { return c.storage.Delete(ctx, c.at(c.name), c.generation) })
	default:
		m.Released = true
		err = c.write(ctx, m)
	}
	if err != nil {
		slog.Warn("a claim was not released; it counts until its lease has passed", "claim", c.at(c.name), "error", err)
	}
	if c.release != nil {
		c.release()
	}
	c.closeLocal()
}

func (c *claim) closeLocal() {
	if !c.noted {
		c.local.Forget()
	}
	c.local.Close()
}
