package main

import (
	"fmt"
	"time"

	"gbatch/pkg/emulator"
)

// killsEach is how many random kills a scenario has at least.
const killsEach = 10

// large is more than one transaction of vectors-apply.
const large = 22_000

// randomKills are scenarios with at least n kills at random moments together.
func randomKills(n int) (list []scenario) {
	for i := range (n + killsEach - 1) / killsEach {
		s := scenario{name: fmt.Sprintf("a/%d", i), options: emulator.Options{Polls: i % 3}}
		switch {
		case i%10 == 9:
			s.do = func(w *world) error { return w.killAtRandom(large, large/2, large) }
		default:
			s.do = func(w *world) error { return w.killAtRandom(20, 25, 3+w.rand.IntN(8)) }
		}
		list = append(list, s)
	}
	return list
}

// killAtRandom kills lines, or one process of them, at random moments of their
// life. Before each, there are new chunks and some with another text.
func (w *world) killAtRandom(first, more, batch int) error {
	w.env["GBATCH_MAX_REQUESTS"] = fmt.Sprint(batch)
	if w.rand.IntN(3) == 0 && batch > 3 {
		w.env["GBATCH_CANARY"] = "2"
	}
	w.apart = w.rand.IntN(3) == 0
	if err := w.add(first, 6); err != nil {
		return err
	}
	begun := time.Now()
	if _, _, err := w.run(attended, nil); err != nil {
		return err
	}
	life := time.Since(begun)
	for w.kills < killsEach {
		if err := w.add(1+w.rand.IntN(more), 6); err != nil {
			return err
		}
		if w.rand.IntN(3) == 0 {
			if err := w.edit(1 + w.rand.IntN(3)); err != nil {
				return err
			}
		}
		if w.rand.IntN(4) == 0 {
			if err := w.faults(fmt.Sprintf("any status=503 p=0.05 seed=%d", w.rand.Uint32()), fmt.Sprintf("any drop p=0.03 seed=%d", w.rand.Uint32())); err != nil {
				return err
			}
			w.orphans = true
		}
		argv := attended
		if w.apart {
			argv = [][][]string{attended, flush, collect}[w.rand.IntN(3)]
		}
		l, err := w.start(argv, nil, nil)
		if err != nil {
			return err
		}
		moment, one := time.Duration(w.rand.Float64()*float64(life)), w.rand.IntN(2) == 0
		restart, pick := w.rand.IntN(12) == 0, w.rand.Int()
		select {
		case <-l.ended:
		case <-time.After(moment):
		}
		if restart {
			w.orphans = true
			if err := w.restart(); err != nil {
				return err
			}
		}
		place := whole
		if alive := l.alive(); one && len(alive) > 0 {
			place = alive[pick%len(alive)]
		}
		if _, err := w.kill(l, place); err != nil {
			return err
		}
		if err := w.faults(); err != nil {
			return err
		}
	}
	return w.finish()
}
