package gbatch

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"gbatch/pkg/exit"
)

// retry makes a call until it succeeds, fails with a permanent error, or has
// failed for longer than patience.
func retry(ctx context.Context, patience time.Duration, call func() error) error {
	for b := newBackoff(patience); ; {
		err := call()
		if err == nil || !transient(err) {
			return err
		}
		if err := b.pause(ctx, err); err != nil {
			return err
		}
	}
}

// A backoff holds the pauses between the attempts of one call.
type backoff struct {
	end  time.Time // no attempt begins later
	step time.Duration
}

func newBackoff(patience time.Duration) *backoff {
	return &backoff{time.Now().Add(patience), min(time.Second, patience/100) + 1}
}

// pause waits before the next attempt, after an attempt that failed with cause.
// It waits as long as Google asks for, or else a random part of a time that
// doubles up to a minute. If the wait would end too late, pause returns cause at
// once, with the exit code TryLater. If cause is an unknown host name, it has no
// exit code.
func (b *backoff) pause(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	wait := rand.N(b.step)
	var e *apiError
	if errors.As(cause, &e) && e.wait > 0 {
		wait = e.wait + rand.N(e.wait/4+1)
	}
	if time.Now().Add(wait).After(b.end) {
		if dns := new(net.DNSError); errors.As(cause, &dns) && dns.IsNotFound {
			return cause
		}
		return exit.Errorf(exit.TryLater, "%w; try again later", cause)
	}
	b.step = min(2*b.step, time.Minute)
	slog.Info("retrying", "in", wait.Round(time.Millisecond), "after", cause)
	return sleep(ctx, wait)
}

// sleep waits for d. If ctx ends earlier, sleep returns the cause.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
