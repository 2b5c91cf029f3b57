package wire

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"gbatch/pkg/exit"
)

// Retry makes a call until it succeeds, fails with a permanent error, or has
// failed for longer than patience.
func Retry(ctx context.Context, patience time.Duration, call func() error) error {
	for b := NewBackoff(patience); ; {
		err := call()
		if err == nil || !Transient(err) {
			return err
		}
		if err := b.Pause(ctx, err); err != nil {
			return err
		}
	}
}

// A Backoff holds the pauses between the attempts of one call.
type Backoff struct {
	end  time.Time // no attempt begins later
	step time.Duration
}

// NewBackoff returns the pauses of a call that is tried for up to patience.
func NewBackoff(patience time.Duration) *Backoff {
	return &Backoff{time.Now().Add(patience), min(time.Second, patience/100) + 1}
}

// Pause waits before the next attempt, after an attempt that failed with cause.
// It waits as long as Google asks for, or else a random part of a time that
// doubles up to a minute. If the wait would end too late, Pause returns cause at
// once, with the exit code TryLater. If cause is an unknown host name, it has no
// exit code.
func (b *Backoff) Pause(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	wait := rand.N(b.step)
	var e *Error
	if errors.As(cause, &e) && e.Wait > 0 {
		wait = e.Wait + rand.N(e.Wait/4+1)
	}
	if time.Now().Add(wait).After(b.end) {
		if dns := new(net.DNSError); errors.As(cause, &dns) && dns.IsNotFound {
			return cause
		}
		return exit.Errorf(exit.TryLater, "%w; try again later", cause)
	}
	b.step = min(2*b.step, time.Minute)
	slog.Info("retrying", "in", wait.Round(time.Millisecond), "after", cause)
	return Sleep(ctx, wait)
}

// Sleep waits for d. If ctx ends earlier, Sleep returns the cause.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
