package emulator

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// holdSet is the set of calls that wait for a release.
type holdSet struct {
	mu      sync.Mutex
	held    []*heldCall
	changed chan struct{} // closed and replaced when a call begins to wait
}

type heldCall struct {
	name     string
	released chan struct{}
}

// hold waits for a release of name. It returns false if the client disconnects
// or the server closes.
func (h *holdSet) hold(ctx context.Context, done <-chan struct{}, name string) bool {
	held := &heldCall{name, make(chan struct{})}
	h.mu.Lock()
	h.held = append(h.held, held)
	close(h.changed)
	h.changed = make(chan struct{})
	h.mu.Unlock()
	select {
	case <-held.released:
		return true
	case <-ctx.Done():
	case <-done:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = slices.DeleteFunc(h.held, func(c *heldCall) bool { return c == held })
	return false
}

// list returns the number of held calls for each name.
func (h *holdSet) list() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	count := map[string]int{}
	for _, c := range h.held {
		count[c.name]++
	}
	return count
}

// WaitHold returns as soon as a call is held at name.
func (s *Server) WaitHold(ctx context.Context, name string) error {
	for {
		s.holds.mu.Lock()
		changed := s.holds.changed
		s.holds.mu.Unlock()
		if s.holds.list()[name] > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done:
			return errors.New("the server is closing")
		}
	}
}

// Release lets the calls that are held at name continue, and returns their
// number. It does not release later calls.
func (s *Server) Release(name string) int {
	s.holds.mu.Lock()
	defer s.holds.mu.Unlock()
	before := len(s.holds.held)
	s.holds.held = slices.DeleteFunc(s.holds.held, func(c *heldCall) bool {
		if c.name == name {
			close(c.released)
		}
		return c.name == name
	})
	return before - len(s.holds.held)
}
