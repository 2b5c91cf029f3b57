package store

import (
	"fmt"
	"slices"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/model"
)

// judgeChunks compares the vectors with the chunks of all sources: it finds vectors
// whose chunk does not exist, or has another text now, chunks with two vectors, and
// texts for which Google counted tokens that they cannot have.
func (a *audit) judgeChunks() error {
	orphan, stale, twice, tokens := a.add("orphan", 0), a.add("stale", 0), a.add("twice", 0), a.add("tokens", 0)
	for _, s := range a.sources {
		if err := a.meet(s, tokens); err != nil {
			return err
		}
	}
	for i := range a.vectors {
		r := &a.vectors[i]
		if !r.chunk {
			continue
		}
		if orphan.Of++; !r.exists {
			a.found(orphan, r.row, true)
		} else if stale.Of++; !r.fresh {
			a.found(stale, r.row, true)
		} else if r.unlike {
			a.found(tokens, r.row, true)
		}
	}
	orphan.Unreadable = a.lost
	if orphan.Count > 0 {
		orphan.Message = "the chunks of these vectors do not exist any more, but searches find the vectors: take the chunk ids off the vectors. The vectors stay, since they are paid for, and a chunk that has such a text again gets its vector at no cost"
		if len(a.lost) > 0 {
			orphan.Message += ". Chunks of sources that cannot be read count as missing: name the sources that exist with --from"
		}
		where := "chunk_id IS NOT NULL"
		for _, s := range a.sources {
			where += " AND CAST(chunk_id AS VARCHAR) NOT IN (SELECT CAST(" + s.id() + " AS VARCHAR) FROM " + s.sql + " WHERE id IS NOT NULL)"
		}
		orphan.Fix = a.statement("UPDATE " + a.e + " SET chunk_id = NULL WHERE " + where)
	}
	if stale.Count > 0 {
		stale.Message = "the chunks of these vectors have another text now: run the pipe"
		stale.Fix = a.line(a.sources[0].from)
	}

	twice.Of = orphan.Of
	more := "SELECT chunk_id, count(*) AS n, min(rowid) AS row FROM " + a.e + " WHERE chunk_id IS NOT NULL GROUP BY chunk_id HAVING n > 1"
	var err error
	if twice.Count, err = a.c.Count("SELECT coalesce(sum(n - 1), 0)::BIGINT FROM (" + more + ")"); err != nil {
		return err
	}
	if twice.Count > 0 {
		if err := a.c.Each(func(r *duck.Rows) { a.rows[twice] = append(a.rows[twice], r.Int(0)) }, fmt.Sprintf("SELECT row FROM (%s) ORDER BY row LIMIT %d", more, a.Keys)); err != nil {
			return err
		}
		twice.Message = "these chunks have more than one vector, so searches find them more than once: keep the vector that was stored last"
		twice.Fix = a.remove("chunk_id IS NOT NULL AND rowid NOT IN (SELECT arg_max(rowid, coalesce(embedded_at, '-infinity'::TIMESTAMP)) FROM " + a.e + " WHERE chunk_id IS NOT NULL GROUP BY chunk_id)")
	}

	switch {
	case tokens.Count > 0:
		tokens.Message = "google's count of tokens cannot be that of the chunk's text, so probably another text was embedded: " + someAgain
	case tokens.Of == 0:
		tokens.Skipped = "no vector has both Google's count and the text of its chunk"
	}
	return nil
}

// meet compares the vectors with the chunks of a source. It reads each text once.
func (a *audit) meet(s *source, tokens *verdict) error {
	estimator := a.space.Estimator(1)
	return a.c.Stream(func(r *duck.Rows) {
		i, _ := slices.BinarySearchFunc(a.vectors, reading{row: r.Int(0)}, byRow)
		h := &a.vectors[i]
		if h.exists = true; h.fresh || !r.Bool(1) {
			return
		}
		h.fresh = true
		counted := r.Int(2)
		if counted <= 0 { // Google gave no count
			return
		}
		estimate := estimator.Request(r.Borrow(3), r.Borrow(4)).Likely
		tokens.Of++
		tokens.Tokens += counted
		tokens.Estimate += estimate
		h.unlike = unlike(counted, estimate)
	}, fmt.Sprintf(`SELECT v.row, v.text_hash IS NOT DISTINCT FROM c.text_hash, v.tokens::BIGINT, c.title, c.body
		FROM (SELECT CAST(%s AS VARCHAR) AS key, %s AS text_hash, %s AS title, %s AS body FROM %s) c
		JOIN (SELECT rowid AS row, CAST(chunk_id AS VARCHAR) COLLATE C AS key, text_hash, tokens FROM %s WHERE chunk_id IS NOT NULL) v ON v.key = c.key`,
		s.id(), s.hash(), s.title(), s.body(), s.sql, a.e))
}

// unlike reports whether a count of tokens cannot be that of a text with this
// estimate. Hardly any estimate of a real text is off by more than a factor of 1.5.
func unlike(counted, estimate int64) bool {
	const factor, few = 3, 10
	return counted > factor*estimate+few || estimate > factor*counted+few
}

// judgeSpaces finds vectors whose batch was embedded in another space.
func (a *audit) judgeSpaces() error {
	v := a.add("mixed", len(a.vectors))
	if !a.claimed || len(a.vectors) == 0 {
		return nil
	}
	const space = "concat_ws(' ', model, dim, nullif(nullif(task_type, ''), '" + model.Unspecified + "'))"
	want := a.space
	if want.TaskType == model.Unspecified {
		want.TaskType = ""
	}
	var others []string
	err := a.c.Each(func(r *duck.Rows) {
		have := model.Space{Model: model.Bare(r.Text(1)), Dim: int(r.Int(2)), TaskType: r.Text(3)}
		if have != want {
			v.Spaces = append(v.Spaces, have.String())
			others = append(others, duck.Literal(r.Text(0)))
		}
	}, "SELECT DISTINCT "+space+", model, dim, nullif(task_type, '"+model.Unspecified+"') FROM gbatch.jobs WHERE batch IN (SELECT batch FROM "+a.e+") ORDER BY ALL")
	if err != nil || len(others) == 0 {
		return err
	}
	where := "batch IN (SELECT batch FROM gbatch.jobs WHERE " + space + " IN (" + strings.Join(others, ", ") + "))"
	if err := a.c.Each(func(r *duck.Rows) { a.found(v, r.Int(0), r.Bool(1)) }, "SELECT rowid, chunk_id IS NOT NULL FROM "+a.e+" WHERE "+where+" ORDER BY rowid"); err != nil {
		return err
	}
	v.Message = fmt.Sprintf("these vectors were embedded in another space than %v, so they cannot be compared with the other vectors: %s", a.space, again)
	v.Fix = a.remove(where)
	return nil
}
