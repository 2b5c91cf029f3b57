package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gbatch/pkg/emulator"
)

// edits are scenarios in which chunks change while their jobs are in flight.
func edits(times int) (list []scenario) {
	holds := []string{"list", "upload.data", "create", "create when=after", "get", "get nth=3", "download", "download at=200", "file.delete"}
	for i := range times {
		for j, at := range holds {
			name := strings.NewReplacer(" ", "-", "=", "-").Replace(at)
			list = append(list, scenario{name: fmt.Sprintf("d/%s/%d", name, i), options: emulator.Options{Polls: 1}, do: func(w *world) error {
				return w.editAt(at, (i+j)%2 == 1)
			}})
		}
		list = append(list,
			scenario{name: fmt.Sprintf("d/late/%d", i), options: emulator.Options{Polls: 1}, do: (*world).editAndOvertake},
			scenario{name: fmt.Sprintf("d/moved/%d", i), options: emulator.Options{Polls: 1}, do: (*world).move},
			scenario{name: fmt.Sprintf("d/restless/%d", i), options: emulator.Options{Polls: 1}, do: (*world).restless})
	}
	return list
}

// edit gives n chunks another text: a new one, or that of another chunk.
func (w *world) edit(n int) error {
	var changed []string
	for range n {
		id := w.any()
		if slices.Contains(changed, id) {
			continue
		}
		text := w.text()
		if w.rand.IntN(3) == 0 {
			text = w.texts[w.any()]
		}
		if text == w.texts[id] {
			continue
		}
		w.set(id, text)
		changed = append(changed, id)
	}
	if len(changed) == 0 {
		return nil
	}
	w.logf("%v are edited", changed)
	return w.put(changed...)
}

// change edits, adds and, where that can be, deletes chunks.
func (w *world) change() error {
	if w.view {
		for range 2 {
			id := w.any()
			w.logf("%s is deleted", id)
			w.remove(id)
		}
	}
	if err := w.edit(1 + w.rand.IntN(5)); err != nil {
		return err
	}
	return w.add(w.rand.IntN(4), 2)
}

// editAt changes chunks while a call is held, and while another line runs.
func (w *world) editAt(words string, view bool) error {
	if view {
		if err := w.inFile(); err != nil {
			return err
		}
	}
	op, rest, _ := strings.Cut(words, " ")
	if !strings.Contains(rest, "nth=") {
		rest = "nth=1 " + rest
	}
	for range 3 {
		if err := w.add(12, 4); err != nil {
			return err
		}
		if err := w.faults(op + " " + rest + " hold=here"); err != nil {
			return err
		}
		l, err := w.start(attended, nil, nil)
		if err != nil {
			return err
		}
		if err := w.hold(l, "here"); err != nil {
			return err
		}
		if err := w.change(); err != nil {
			return err
		}
		if err := w.faults(); err != nil {
			return err
		}
		w.Release("here")
		if _, err := w.end(l); err != nil {
			return err
		}
	}
	return w.finish()
}

// editAndOvertake lets the vectors of old texts arrive after those of the new
// texts.
func (w *world) editAndOvertake() error {
	w.apart = true
	if err := w.add(10, 0); err != nil {
		return err
	}
	if _, _, err := w.run(flush, nil); err != nil {
		return err
	}
	if err := w.faults("download nth=1 hold=here"); err != nil {
		return err
	}
	l, err := w.start(collect, nil, nil)
	if err != nil {
		return err
	}
	if err := w.hold(l, "here"); err != nil {
		return err
	}
	for _, id := range w.ids {
		w.set(id, w.text())
	}
	if err := w.put(w.ids...); err != nil {
		return err
	}
	if _, _, err := w.run(attended, nil); err != nil {
		return err
	}
	if err := w.faults(); err != nil {
		return err
	}
	w.Release("here")
	if _, err := w.end(l); err != nil {
		return err
	}
	return w.finish()
}

// move gives the texts of chunks in flight to other chunks, as when a paragraph is
// added at the beginning of a document and its chunks get other numbers.
func (w *world) move() error {
	if err := w.add(12, 0); err != nil {
		return err
	}
	if err := w.faults("get nth=1 hold=here"); err != nil {
		return err
	}
	l, err := w.start(attended, nil, nil)
	if err != nil {
		return err
	}
	if err := w.hold(l, "here"); err != nil {
		return err
	}
	texts := []string{w.text()}
	for _, id := range w.ids {
		texts = append(texts, w.texts[id])
	}
	for i, id := range w.ids {
		w.texts[id] = texts[i]
	}
	w.ids = append(w.ids, "last")
	w.texts["last"] = texts[len(texts)-1]
	if err := w.put(w.ids...); err != nil {
		return err
	}
	w.logf("every chunk has the text of the one before")
	if err := w.faults(); err != nil {
		return err
	}
	w.Release("here")
	if _, err := w.end(l); err != nil {
		return err
	}
	return w.finish()
}

// restless changes chunks all the time while the line runs.
func (w *world) restless() error {
	for range 3 {
		if err := w.add(20, 4); err != nil {
			return err
		}
		l, err := w.start(attended, nil, nil)
		if err != nil {
			return err
		}
		for n := 0; n < 10 && len(l.alive()) > 0; n++ {
			if err := w.change(); err != nil {
				return err
			}
		}
		if _, err := w.end(l); err != nil {
			return err
		}
	}
	return w.finish()
}

// ---- two at once

// together are scenarios with two lines at once on one database.
func together(times int) (list []scenario) {
	for i := range times {
		list = append(list,
			scenario{name: fmt.Sprintf("e/lines/%d", i), options: emulator.Options{Polls: 1}, do: func(w *world) error { return w.twoLines(attended, attended) }},
			scenario{name: fmt.Sprintf("e/unattended/%d", i), options: emulator.Options{Polls: 1}, do: func(w *world) error { return w.twoLines(flush, collect) }},
			scenario{name: fmt.Sprintf("e/both/%d", i), options: emulator.Options{Polls: 1}, do: func(w *world) error { return w.twoLines(attended, flush) }},
			scenario{name: fmt.Sprintf("e/submits/%d", i), options: emulator.Options{Polls: 1}, do: (*world).twoSubmits},
			scenario{name: fmt.Sprintf("e/slow/%d", i), options: emulator.Options{Polls: 1}, do: (*world).slowLine})
	}
	return list
}

// twoLines runs two lines at once, kills one of them now and then, and lets
// jobs fail.
func (w *world) twoLines(a, b [][]string) error {
	w.apart = true
	for n := range 5 {
		if err := w.add(15, 4); err != nil {
			return err
		}
		switch n {
		case 2:
			if err := w.faults("job every=3 state=FAILED"); err != nil {
				return err
			}
		case 3:
			if err := w.faults("create every=2 drop when=after", "list every=3 status=503"); err != nil {
				return err
			}
		}
		one, err := w.start(a, nil, nil)
		if err != nil {
			return err
		}
		other, err := w.start(b, nil, nil)
		if err != nil {
			return err
		}
		if n == 4 {
			<-one.procs[w.rand.IntN(3)].ended
			if _, err := w.kill(other, whole); err != nil {
				return err
			}
		}
		if _, err := w.end(one); err != nil {
			return err
		}
		if _, err := w.end(other); err != nil {
			return err
		}
		if err := w.faults(); err != nil {
			return err
		}
	}
	return w.finish()
}

// twoSubmits runs two, and then three, gbatch-submit at once on one input.
func (w *world) twoSubmits() error {
	// The second round also gets the batches of the first one.
	for n := 2; n < 4; n++ {
		if err := w.add(15, 0); err != nil {
			return err
		}
		lines, code, err := w.run(submit[:2], nil)
		if err != nil || code != 0 {
			return errors.Join(err, fmt.Errorf("the line ended with %d", code))
		}
		var all []*line
		for range n {
			l, err := w.start(submit[2:], strings.NewReader(lines), nil)
			if err != nil {
				return err
			}
			all = append(all, l)
		}
		var printed []byte
		for _, l := range all {
			codes, err := w.end(l)
			if err != nil {
				return err
			}
			if codes[0] != 0 {
				return fmt.Errorf("one of %d gbatch-submit ended with %d: %s", n, codes[0], w.stderr())
			}
			if printed == nil {
				printed = l.out.Bytes()
			}
			if !bytes.Equal(jobsOf(printed), jobsOf(l.out.Bytes())) {
				return fmt.Errorf("two gbatch-submit at once print other jobs: %s and %s", printed, l.out.Bytes())
			}
		}
		books, err := w.Books()
		if err != nil {
			return err
		}
		if books.Creates != bytes.Count(printed, []byte("\n")) {
			return fmt.Errorf("%d gbatch-submit at once created %d jobs in all for %s", n, books.Creates, printed)
		}
	}
	return w.finish()
}

// jobsOf is the names of the jobs in records.
func jobsOf(records []byte) (names []byte) {
	for line := range bytes.Lines(records) {
		name, _, _ := bytes.Cut(line, []byte(","))
		names = append(names, name...)
	}
	return names
}

// slowLine lets a line submit what it has read long ago, when another line has
// submitted it, seen its job fail and submitted the same texts in another batch.
func (w *world) slowLine() error {
	if err := w.add(12, 0); err != nil {
		return err
	}
	read, _, err := w.run(submit[:2], nil)
	if err != nil {
		return err
	}
	if err := w.faults("job times=2 state=FAILED"); err != nil {
		return err
	}
	for range 2 {
		if _, _, err := w.run(attended, nil); err != nil {
			return err
		}
	}
	if _, _, err := w.run(attended[2:], strings.NewReader(read)); err != nil {
		return err
	}
	return w.finish()
}
