package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/vector"
)

// checkDim is the length of the vectors in these tests.
const checkDim = 8

// sane makes a database with n chunks and their vectors, without a fault.
func sane(t *testing.T, n int) *kb {
	made, ok := sanes[n]
	if !ok {
		k := open(t, strings.Join([]string{tables,
			fmt.Sprintf("CREATE TABLE chunks AS SELECT format('c{:03d}', i) AS id, 'text number ' || i AS text FROM range(%d) t(i)", n),
			"CREATE TABLE embeddings (chunk_id VARCHAR, text_hash UHUGEINT, embedding FLOAT[8], tokens BIGINT, batch VARCHAR, embedded_at TIMESTAMP)",
			"INSERT INTO embeddings SELECT id, md5_number(concat('0:', text)), [0.25 * sin((id[2:]::INT + 1) * (j + 1) * 1.7 + j) for j in range(8)]::FLOAT[8], 5, 'b1', TIMESTAMP '2026-11-25' FROM chunks ORDER BY id",
			"COMMENT ON TABLE embeddings IS 'holds gemini-embedding-001 8 RETRIEVAL_DOCUMENT (gbatch)'",
			"INSERT INTO gbatch.jobs (batch, model, dim, task_type, source, embeddings, closed_at) VALUES ('b1', 'gemini-embedding-001', 8, 'RETRIEVAL_DOCUMENT', 'chunks', 'embeddings', TIMESTAMP '2026-11-25')"}, ";\n"))
		var err error
		if made, err = os.ReadFile(k.DB); err != nil {
			t.Fatal(err)
		}
		sanes[n] = made
	}
	k := &kb{t, duck.Database{DB: filepath.Join(t.TempDir(), "kb.duckdb"), LockTimeout: 10 * time.Second}}
	if err := os.WriteFile(k.DB, made, 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

// sanes are the files that sane has made, by n.
var sanes = map[int][]byte{}

func (k *kb) check(set ...func(*Check)) *Check {
	c := &Check{Database: k.Database, Embeddings: "embeddings", MinCosine: 0.999, Keys: 5}
	for _, f := range set {
		f(c)
	}
	return c
}

// verdicts runs a check, and returns its records by their name, and the names in
// their order.
func (k *kb) verdicts(c *Check, in string) (all map[string]verdict, names []string) {
	k.Helper()
	out, err := k.run(c, in)
	all = map[string]verdict{}
	found := false
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var v verdict
		if e := d.Decode(&v); e == io.EOF {
			break
		} else if e != nil {
			k.Fatal(e)
		}
		all[v.Check], names = v, append(names, v.Check)
		found = found || v.Count > 0
		if (v.Count > 0) != (v.Message != "") || v.Skipped != "" && v.Count > 0 {
			k.Errorf("%+v", v)
		}
	}
	if code := exit.Code(err); found && code != exit.Partial || !found && err != nil {
		k.Fatalf("exit code %d: %v", code, err)
	}
	return all, names
}

var checkNames = []string{"length", "not_finite", "zero", "norm", "equal", "dead", "collapsed", "orphan", "stale", "twice", "tokens", "mixed"}

// statements returns the SQL of a fix, as a shell reads it.
func (k *kb) statements(fix string) string {
	k.Helper()
	cmd := exec.Command("sh", "-c", `duckdb() { test "$#" = 2 && test "$1" = "$DB" && printf %s "$2"; }; `+fix)
	cmd.Env = append(os.Environ(), "DB="+k.DB)
	sql, err := cmd.Output()
	if err != nil || len(sql) == 0 {
		k.Fatalf("%s: %v", fix, err)
	}
	return string(sql)
}

// Each fault is found by its check, and by no other, with the keys in the order of the
// table. The command of the fix ends it.
func TestCheckFaults(t *testing.T) {
	set := func(vector, where string) string {
		return "UPDATE embeddings SET embedding = " + vector + " WHERE " + where
	}
	times := func(factor string) string { return "[x * " + factor + " for x in embedding::DOUBLE[]]::FLOAT[8]" }
	const length = "sqrt(list_inner_product(embedding::DOUBLE[], embedding::DOUBLE[]))"
	for name, c := range map[string]struct {
		fault []string
		check string // "" if there is no finding
		count int64
		keys  string
		more  func(*testing.T, verdict)
	}{
		"none":             {},
		"kept":             {fault: []string{"UPDATE embeddings SET chunk_id = NULL WHERE chunk_id = 'c002'", "DELETE FROM chunks WHERE id = 'c002'"}},
		"twins":            {fault: []string{"INSERT INTO chunks SELECT 'twin', text FROM chunks WHERE id = 'c002'", "INSERT INTO embeddings SELECT 'twin', * EXCLUDE (chunk_id) FROM embeddings WHERE chunk_id = 'c002'"}},
		"no counts":        {fault: []string{"UPDATE embeddings SET tokens = 0 WHERE chunk_id > 'c002'"}},
		"all of length 1":  {fault: []string{set(times("1 / "+length), "true")}},
		"missing":          {[]string{set("NULL", "chunk_id IN ('c120', 'c003')")}, "length", 2, "c003 c120", nil},
		"a value missing":  {[]string{set("[1, 0, 0, NULL, 0, 0, 0, 0]::FLOAT[8]", "chunk_id = 'c003'")}, "length", 1, "c003", nil},
		"lists":            {[]string{"ALTER TABLE embeddings ALTER embedding TYPE FLOAT[]", set("embedding[1:7]", "chunk_id = 'c003'"), set("embedding || [NULL]", "chunk_id = 'c004'")}, "length", 2, "c003 c004", nil},
		"NaN":              {[]string{set("[0, 0, 'nan'::FLOAT, 0, 0, 0, 0, 0]::FLOAT[8]", "chunk_id = 'c003'")}, "not_finite", 1, "c003", nil},
		"infinite":         {[]string{set("[0, 0, 0, 0, 0, 0, 0, '-inf'::FLOAT]::FLOAT[8]", "chunk_id >= 'c140'")}, "not_finite", 10, "c140 c141 c142 c143 c144", nil},
		"zero":             {[]string{set(times("0"), "chunk_id IN ('c003', 'c004')")}, "zero", 2, "c003 c004", nil},
		"numbers":          {[]string{"ALTER TABLE chunks ALTER id TYPE INTEGER USING id[2:]::INTEGER", "ALTER TABLE embeddings ALTER chunk_id TYPE INTEGER USING chunk_id[2:]::INTEGER", set(times("0"), "chunk_id = 3")}, "zero", 1, "3", nil},
		"zero, no chunk":   {[]string{set(times("0"), "chunk_id = 'c003'"), "UPDATE embeddings SET chunk_id = NULL WHERE chunk_id = 'c003'"}, "zero", 1, "", nil},
		"longer":           {[]string{set(times("2 / "+length), "chunk_id = 'c003'")}, "norm", 1, "c003", nil},
		"shorter":          {[]string{set(times("1e-3"), "chunk_id = 'c003'")}, "norm", 1, "c003", nil},
		"smallest":         {[]string{set("[0, 1e-45, 0, 0, 0, 0, 0, 0]::FLOAT[8]", "chunk_id = 'c003'")}, "norm", 1, "c003", nil},
		"largest":          {[]string{set("[3.4e38, 3.4e38, 0, 0, 0, 0, 0, 0]::FLOAT[8]", "chunk_id = 'c003'")}, "norm", 1, "c003", nil},
		"some of length 1": {[]string{set(times("1 / "+length), "chunk_id IN ('c003', 'c004')")}, "norm", 2, "c003 c004", nil},
		"most of length 1": {[]string{set(times("1 / "+length), "chunk_id NOT IN ('c003', 'c004')")}, "norm", 2, "c003 c004", nil},
		"a model of length 1": {[]string{"COMMENT ON TABLE embeddings IS 'holds gemini-embedding-2 8 RETRIEVAL_DOCUMENT (gbatch)'", "UPDATE gbatch.jobs SET model = 'models/gemini-embedding-2'",
			set(times("1 / "+length), "true"), set(times("0.98"), "chunk_id = 'c003'"), set(times("0.995"), "chunk_id = 'c004'")}, "norm", 1, "c003", nil},
		"equal": {[]string{set("(SELECT embedding FROM embeddings WHERE chunk_id = 'c009')", "chunk_id IN ('c003', 'c006')")}, "equal", 3, "c009 c003 c006", nil},
		"dead": {[]string{set("[if(j IN (2, 5), 0.125, embedding[j]) for j in range(1, 9)]::FLOAT[8]", "true"), set(times("0"), "false")}, "dead", 2, "",
			func(t *testing.T, v verdict) {
				if v.Of != 8 || !slices.Equal(v.Dims, []int{2, 5}) {
					t.Errorf("%+v", v)
				}
			}},
		"collapsed": {[]string{set("[0.2 + 0.1 * x for x in embedding::DOUBLE[]]::FLOAT[8]", "true")}, "collapsed", 1, "", nil},
		"orphan":    {[]string{"DELETE FROM chunks WHERE id IN ('c003', 'c007')"}, "orphan", 2, "c003 c007", nil},
		"stale":     {[]string{"UPDATE chunks SET text = 'edited' WHERE id IN ('c003', 'c007')"}, "stale", 2, "c003 c007", nil},
		"no hash":   {[]string{"UPDATE embeddings SET text_hash = NULL WHERE chunk_id = 'c003'"}, "stale", 1, "c003", nil},
		"twice":     {[]string{"INSERT INTO embeddings FROM embeddings WHERE chunk_id IN ('c003', 'c007')", "INSERT INTO embeddings FROM embeddings WHERE chunk_id = 'c009' LIMIT 1"}, "twice", 3, "c003 c007 c009", nil},
		"tokens":    {[]string{"UPDATE embeddings SET tokens = 500 WHERE chunk_id IN ('c003', 'c007')"}, "tokens", 2, "c003 c007", nil},
		"few tokens": {[]string{"UPDATE chunks SET text = repeat('many words ', 100) WHERE id = 'c003'",
			"UPDATE embeddings SET text_hash = (SELECT md5_number(concat('0:', text)) FROM chunks WHERE id = 'c003') WHERE chunk_id = 'c003'"}, "tokens", 1, "c003", nil},
		"mixed": {[]string{"INSERT INTO gbatch.jobs (batch, model, dim, task_type, embeddings) VALUES ('b2', 'gemini-embedding-2', 8, 'RETRIEVAL_DOCUMENT', 'other')", "UPDATE embeddings SET batch = 'b2' WHERE chunk_id IN ('c003', 'c007')"}, "mixed", 2, "c003 c007",
			func(t *testing.T, v verdict) {
				if !slices.Equal(v.Spaces, []string{"gemini-embedding-2 8 RETRIEVAL_DOCUMENT"}) {
					t.Errorf("%+v", v)
				}
			}},
		"mixed task types": {[]string{"INSERT INTO gbatch.jobs (batch, model, dim, task_type, embeddings) VALUES ('b2', 'models/gemini-embedding-001', 8, 'RETRIEVAL_DOCUMENT', 'embeddings'), ('b''3', 'gemini-embedding-001', 8, NULL, 'embeddings'), ('b4', 'gemini-embedding-001', 8, 'CLUSTERING', 'embeddings')",
			"UPDATE embeddings SET batch = 'b2' WHERE chunk_id = 'c003'", "UPDATE embeddings SET batch = 'b''3' WHERE chunk_id = 'c007'", "UPDATE embeddings SET batch = 'b4' WHERE chunk_id = 'c009'", "UPDATE embeddings SET batch = 'unknown' WHERE chunk_id = 'c011'"}, "mixed", 2, "c007 c009", nil},
	} {
		t.Run(name, func(t *testing.T) {
			k := sane(t, 150)
			if c.fault != nil {
				k.sql(strings.Join(c.fault, ";\n"))
			}
			all, names := k.verdicts(k.check(), "")
			if !slices.Equal(names, checkNames) {
				t.Errorf("the checks are %q", names)
			}
			for _, v := range all {
				if v.Skipped != "" || v.Table != "embeddings" || v.Check != c.check && v.Count > 0 {
					t.Errorf("%+v", v)
				}
			}
			if c.check == "" {
				return
			}
			v := all[c.check]
			if v.Count != c.count || strings.Join(v.Keys, " ") != c.keys {
				t.Errorf("%+v", v)
			}
			if c.more != nil {
				c.more(t, v)
			}
			switch c.check {
			case "dead", "collapsed": // they concern all vectors
				return
			case "stale":
				if want := "chunks-pending " + k.DB + " --dim 8 | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply " + k.DB; v.Fix != want {
					t.Errorf("%s instead of %s", v.Fix, want)
				}
				return
			}
			before := k.rows("SELECT count(*) FROM embeddings")
			k.sql(k.statements(v.Fix))
			after, _ := k.verdicts(k.check(), "")
			for _, v := range after {
				if v.Count > 0 {
					t.Errorf("after %s: %+v", v.Fix, v)
				}
			}
			// What is not wrong stays.
			deleted := c.count
			switch {
			case name == "some of length 1", name == "most of length 1", c.check == "orphan":
				deleted = 0
			}
			k.expect("SELECT count(*) + "+fmt.Sprint(deleted)+" FROM embeddings", before)
		})
	}
}

// If a check needs more vectors, it says so, and is no finding.
func TestCheckSkips(t *testing.T) {
	k := sane(t, 99)
	k.sql("UPDATE embeddings SET embedding = [0.2 + 0.01 * x for x in embedding::DOUBLE[]]::FLOAT[8], tokens = NULL")
	all, _ := k.verdicts(k.check(), "")
	for _, name := range []string{"dead", "collapsed", "tokens"} {
		if v := all[name]; v.Skipped == "" || v.Of != 0 {
			t.Errorf("%+v", v)
		}
	}
	k.sql("DELETE FROM embeddings")
	all, names := k.verdicts(k.check(), "")
	if !slices.Equal(names, checkNames) || all["length"].Of != 0 {
		t.Errorf("an empty table: %v", all)
	}
}

// The numbers are those of a naive computation, over vectors with all kinds of faults.
func TestCheckExact(t *testing.T) {
	const n = 3000
	k := sane(t, n)
	k.sql("UPDATE embeddings SET embedding = [x * 1.2 for x in embedding::DOUBLE[]]::FLOAT[8] WHERE rowid % 2 = 0",
		"UPDATE embeddings SET embedding = [0, 0, 0, 0, 0, 0, 0, 0]::FLOAT[8] WHERE chunk_id LIKE '%17'",
		"UPDATE embeddings SET embedding = [0, 'inf'::FLOAT, 0, 0, 0, 0, 'nan'::FLOAT, 0]::FLOAT[8] WHERE chunk_id LIKE '%23'",
		"UPDATE embeddings SET embedding = NULL WHERE chunk_id LIKE '%31'",
		"UPDATE embeddings SET embedding = (SELECT embedding FROM embeddings WHERE chunk_id = 'c005') WHERE chunk_id LIKE '%42'",
		"UPDATE embeddings SET embedding = [x * 20 for x in embedding::DOUBLE[]]::FLOAT[8] WHERE chunk_id LIKE '%55'",
		"UPDATE embeddings SET tokens = 400 WHERE chunk_id LIKE '%61'",
		"UPDATE chunks SET text = 'edited ' || id WHERE id LIKE '%67'",
		"DELETE FROM chunks WHERE id LIKE '%71'")
	all, _ := k.verdicts(k.check(func(c *Check) { c.Keys = n }), "")

	type row struct {
		key, text string
		hash      uint64
		counted   int64
		values    []float32
		whole     bool
		chunk     bool
		same      bool
	}
	var rows []row
	err := k.transact(duck.Read, func(c *duck.Conn) error {
		return c.Each(func(r *duck.Rows) {
			x := row{key: r.Text(0), hash: r.Uint128(1)[0], counted: r.Int(2), text: r.Text(3), chunk: r.Bool(4), same: r.Bool(5)}
			v, whole := r.BorrowFloats(6, checkDim)
			x.values, x.whole = slices.Clone(v), whole
			rows = append(rows, x)
		}, "SELECT chunk_id, text_hash, tokens, text, id IS NOT NULL, md5_number(concat('0:', text)) = text_hash, embedding FROM embeddings LEFT JOIN chunks ON chunk_id = id ORDER BY embeddings.rowid")
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{}
	var norms []float64
	var sums [2]int64
	counts := map[string]int64{}
	estimator := model.Space{Model: model.Default, TaskType: model.DefaultTaskType}.Estimator(1)
	var good []row
	for _, x := range rows {
		add := func(name string) { want[name] = append(want[name], x.key) }
		norm := 0.
		for _, v := range x.values {
			norm += float64(v) * float64(v)
		}
		switch norm = math.Sqrt(norm); {
		case !x.whole:
			add("length")
		case math.IsNaN(norm) || math.IsInf(norm, 0):
			add("not_finite")
		case norm == 0:
			add("zero")
		default:
			norms, good = append(norms, norm), append(good, x)
		}
		if !x.chunk {
			add("orphan")
		} else if counts["stale"]++; !x.same {
			add("stale")
		} else {
			counts["tokens"]++
			estimate := estimator.Request("", x.text).Likely
			sums[0], sums[1] = sums[0]+x.counted, sums[1]+estimate
			if x.counted == 400 {
				add("tokens")
			}
		}
	}
	slices.Sort(norms)
	for _, x := range good {
		if vector.Norm(x.values) > 1.01 {
			want["norm"] = append(want["norm"], x.key)
		}
		for _, y := range good {
			if x.key != y.key && slices.Equal(x.values, y.values) {
				want["equal"] = append(want["equal"], x.key)
				break
			}
		}
	}
	slices.SortFunc(good, func(a, b row) int { return map[bool]int{true: -1, false: 1}[a.hash < b.hash] })
	mean, pairs := 0., 0
	for i, x := range good[:sampleSize] {
		for _, y := range good[:i] {
			mean, pairs = mean+vector.Cosine(x.values, y.values), pairs+1
		}
	}
	mean /= float64(pairs)
	for _, name := range checkNames {
		v := all[name]
		if v.Count != int64(len(want[name])) || !slices.Equal(v.Keys, want[name]) {
			t.Errorf("%s: %d %q instead of %d %q", name, v.Count, v.Keys, len(want[name]), want[name])
		}
	}
	for _, name := range []string{"length", "not_finite", "zero", "norm", "equal", "orphan", "stale", "tokens"} {
		if len(want[name]) == 0 {
			t.Errorf("no fault of %s", name)
		}
	}
	close := func(name string, got *float64, want float64) {
		if got == nil || math.Abs(*got-want) > 1e-5*math.Abs(want) {
			t.Errorf("%s is %v instead of %v", name, *got, want)
		}
	}
	close("mean_cosine", all["collapsed"].MeanCosine, mean)
	v := all["norm"]
	close("least_norm", v.LeastNorm, norms[0])
	close("median_norm", v.MedianNorm, norms[len(norms)/2])
	close("most_norm", v.MostNorm, norms[len(norms)-1])
	if v := all["tokens"]; v.Of != counts["tokens"] || v.Tokens != sums[0] || v.Estimate != sums[1] {
		t.Errorf("%+v instead of %v of %d", v, sums, counts["tokens"])
	}
	if all["stale"].Of != counts["stale"] || all["norm"].Of != int64(len(good)) || all["length"].Of != n {
		t.Error(all)
	}
}

// The sample has each text once, and does not depend on the order of the vectors.
func TestCheckSample(t *testing.T) {
	var a, b sample
	vec := func(i int) []float32 { return []float32{float32(math.Sin(float64(i))), 0.3, 0.1} }
	hash := func(i int) uint64 { return uint64(i+1) * 0x9e3779b97f4a7c15 }
	const texts = 5000
	for i := range texts {
		for range 3 {
			a.add(hash(i), vector.Norm(vec(i)), vec(i))
		}
		j := texts - 1 - i
		b.add(hash(j), vector.Norm(vec(j)), vec(j))
	}
	meanA, n := a.mean()
	meanB, m := b.mean()
	if n != sampleSize || m != sampleSize || meanA != meanB {
		t.Errorf("%v of %d, %v of %d", meanA, n, meanB, m)
	}
}

// The length that vectors must have depends on the model and the dim.
func TestCheckNorms(t *testing.T) {
	for _, c := range []struct {
		space model.Space
		norms []float32
		want  []int64
	}{
		{model.Space{Model: "gemini-embedding-001", Dim: 3072}, []float32{1, 0.999, 0.6, 1.2}, []int64{2, 3}},
		{model.Space{Model: "gemini-embedding-001", Dim: 768}, []float32{0.6, 0.55, 0.7, 0.62}, nil},
		{model.Space{Model: "gemini-embedding-001", Dim: 768}, []float32{0.6, 0.55, 0.7, 1.02}, []int64{3}},
		{model.Space{Model: "gemini-embedding-001", Dim: 768}, []float32{0.6, 1, 0.7, 0.5}, []int64{1}},
		{model.Space{Model: "gemini-embedding-001", Dim: 768}, []float32{0.6, 1, 1, 1}, []int64{0}},
		{model.Space{Model: "gemini-embedding-001", Dim: 2560}, []float32{0.97, 0.98, 0.991, 0.992}, nil},
		{model.Space{Model: "gemini-embedding-2-preview", Dim: 768}, []float32{1, 0.6, 0.6, 0.6}, []int64{1, 2, 3}},
		{model.Space{Model: "another", Dim: 768}, []float32{12, 14, 13, 100, 3}, []int64{3, 4}},
		{model.Space{Model: "another", Dim: 3072}, []float32{12, 14, 13}, nil},
	} {
		a := &audit{Check: &Check{Keys: 10}, space: c.space, columns: map[string]string{}, rows: map[*verdict][]int64{}}
		var sound []reading
		for i, n := range c.norms {
			sound = append(sound, reading{row: int64(i), norm: n, chunk: true})
		}
		a.judgeNorms(sound)
		if got := a.rows[a.verdicts[0]]; !slices.Equal(got, c.want) {
			t.Errorf("%v, lengths %v: %v instead of %v", c.space, c.norms, got, c.want)
		}
	}
}

// Chunks of all sources of the table count. A source that cannot be read is named.
func TestCheckSources(t *testing.T) {
	k := sane(t, 120)
	k.sql("CREATE TABLE more AS SELECT id, text FROM chunks WHERE id >= 'c100'", "DELETE FROM chunks WHERE id >= 'c100'",
		"INSERT INTO gbatch.jobs (batch, model, dim, task_type, source, embeddings, closed_at) VALUES ('b2', 'gemini-embedding-001', 8, 'RETRIEVAL_DOCUMENT', 'FROM more -- all', 'embeddings', TIMESTAMP '2026-11-25')")
	all, _ := k.verdicts(k.check(), "")
	if v := all["orphan"]; v.Count != 0 || v.Of != 120 || all["stale"].Of != 120 || all["tokens"].Of != 120 {
		t.Errorf("%+v", all)
	}
	all, _ = k.verdicts(k.check(func(c *Check) { c.From = "chunks" }), "")
	if v := all["orphan"]; v.Count != 20 || v.Unreadable != nil {
		t.Errorf("%+v", v)
	}
	k.sql("DROP TABLE more", "DELETE FROM chunks WHERE id = 'c000'")
	all, _ = k.verdicts(k.check(), "")
	v := all["orphan"]
	if v.Count != 21 || !slices.Equal(v.Unreadable, []string{"FROM more -- all"}) || !strings.Contains(v.Message, "--from") {
		t.Errorf("%+v", v)
	}
	k.sql(k.statements(v.Fix))
	k.expect("SELECT count(*), count(chunk_id) FROM embeddings", "120|99")
	k.sql("DROP TABLE chunks")
	if _, err := k.run(k.check(), ""); exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), "--from") {
		t.Error(err)
	}
}

// What is not a table of vectors is refused, with the name of one.
func TestCheckTables(t *testing.T) {
	k := sane(t, 100)
	k.sql("CREATE TABLE mine (id VARCHAR, embedding FLOAT[8])", "CREATE TABLE empty AS FROM embeddings LIMIT 0", "CREATE TABLE nameless AS FROM embeddings")
	for table, want := range map[string]string{
		"other":    "chunks were claimed for embeddings",
		"mine":     "does not belong to gbatch",
		"nameless": `COMMENT ON TABLE "nameless" IS`,
	} {
		k.sql("UPDATE gbatch.jobs SET batch = 'b0' WHERE batch = 'b1'") // unknown to nameless
		_, err := k.run(k.check(func(c *Check) { c.Embeddings = table }), "")
		if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", table, err)
		}
	}
	k.verdicts(k.check(func(c *Check) { c.Embeddings = "empty" }), "")
	// The toolkit's tables are not needed.
	k.sql("DROP SCHEMA gbatch CASCADE")
	if all, _ := k.verdicts(k.check(), ""); all["orphan"].Of != 100 || all["stale"].Count != 0 {
		t.Errorf("%+v", all)
	}
	if _, err := k.run(k.check(func(c *Check) { c.Embeddings = "other" }), ""); exit.Code(err) != exit.Usage {
		t.Error(err)
	}
	if _, err := k.run(k.check(func(c *Check) { c.Keys = -1 }), ""); exit.Code(err) != exit.Usage {
		t.Error(err)
	}
}

// --against compares each key by the cosine, names the worst first, and refuses
// another space.
func TestCheckAgainst(t *testing.T) {
	k := sane(t, 20)
	stored := map[string][]float32{}
	err := k.transact(duck.Read, func(c *duck.Conn) error {
		return c.Each(func(r *duck.Rows) {
			v, _ := r.BorrowFloats(1, checkDim)
			stored[r.Text(0)] = slices.Clone(v)
		}, "SELECT chunk_id, embedding FROM embeddings")
	})
	if err != nil {
		t.Fatal(err)
	}
	line := func(key string, factor, first float32) string {
		v := slices.Clone(stored[key])
		if v == nil {
			v = make([]float32, checkDim)
		}
		for i := range v {
			v[i] *= factor
		}
		v[0] += first
		return k.vectorLine("b9", key, v)
	}
	against := func(set ...func(*Check)) *Check {
		return k.check(append([]func(*Check){func(c *Check) { c.Against = "-" }}, set...)...)
	}
	const job = `{"job":"batches/x","batch":"b9","state":"SUCCEEDED","model":"gemini-embedding-001","dim":8,"requests":1,"succeeded":1,"failed":0,"tokens":1}` + "\n"

	all, names := k.verdicts(against(), line("c001", 1, 0)+line("c002", 3, 0)+job)
	if v := all["cosine"]; !slices.Equal(names, []string{"cosine", "not_stored", "error"}) || v.Of != 2 || *v.LeastCosine != 1 || v.Missing != 18 || strings.Join(v.MissingKeys, " ") != "c000 c003 c004 c005 c006" {
		t.Errorf("%v %+v", names, v)
	}

	in := line("c001", 1, 0) + line("c002", -1, 0) + line("c003", 1, 0.5) + line("c004", 1, 0.001) + line("none", 1, 1) + k.errorLine("b9", "c005", 13, "no") + line("it's", 1, 1)
	all, _ = k.verdicts(against(), in)
	v := all["cosine"]
	moved := slices.Clone(stored["c003"])
	moved[0] += 0.5
	if want := vector.Cosine(stored["c003"], moved); v.Count != 2 || v.Of != 4 || strings.Join(v.Keys, " ") != "c002 c003" || v.Cosines[0] != -1 || math.Abs(v.Cosines[1]-want) > 1e-5 || *v.LeastCosine != -1 {
		t.Errorf("%+v, want a cosine of %v", v, want)
	}
	if v := all["not_stored"]; v.Count != 2 || v.Of != 6 || strings.Join(v.Keys, " ") != "it's none" {
		t.Errorf("%+v", v)
	}
	if v := all["error"]; v.Count != 1 || v.Of != 7 || strings.Join(v.Keys, " ") != "c005" {
		t.Errorf("%+v", v)
	}
	if all, _ := k.verdicts(against(func(c *Check) { c.MinCosine = -1 }), line("c002", -1, 0)); all["cosine"].Count != 0 {
		t.Errorf("%+v", all)
	}
	if all, _ := k.verdicts(against(), ""); all["cosine"].Skipped == "" || all["cosine"].Missing != 20 {
		t.Errorf("%+v", all)
	}
	const space = `{"space":{"model":"gemini-embedding-001","dim":8,"task_type":"RETRIEVAL_DOCUMENT"}}` + "\n"
	if all, _ := k.verdicts(against(), space+line("c001", 2, 0)); all["cosine"].Of != 1 || all["cosine"].Count != 0 {
		t.Errorf("%+v", all)
	}
	// The fix deletes also the vector of the twin, which would be copied.
	k.sql("INSERT INTO embeddings SELECT 'it''s', * EXCLUDE (chunk_id) FROM embeddings WHERE chunk_id = 'c003'")
	k.sql(k.statements(v.Fix))
	k.expect("SELECT string_agg(chunk_id, ' ' ORDER BY chunk_id) FROM embeddings WHERE chunk_id < 'c005' OR chunk_id = 'it''s'", "c000 c001 c004")

	// A file, and vectors without a direction on both sides.
	path := filepath.Join(t.TempDir(), "anew")
	if err := os.WriteFile(path, []byte(line("c006", 0, 0)+line("c007", 1, 0)+line("c008", 1, 0)), 0o600); err != nil {
		t.Fatal(err)
	}
	k.sql("UPDATE embeddings SET embedding = NULL WHERE chunk_id = 'c007'")
	all, _ = k.verdicts(against(func(c *Check) { c.Against = path }, func(c *Check) { c.Keys = 1 }), "")
	if v := all["cosine"]; v.Count != 2 || v.Of != 3 || strings.Join(v.Keys, " ") != "c006" {
		t.Errorf("%+v", v)
	}
	if _, err := k.run(k.check(func(c *Check) { c.Against = path + "x" }), ""); !errors.Is(err, os.ErrNotExist) || exit.Code(err) != exit.Usage {
		t.Error(err)
	}
	for _, c := range []struct {
		in, want string
		code     int
	}{
		{k.vectorLine("", "c001", []float32{1, 2}), "line 1: the vectors are of the space 2", exit.Usage},
		{line("c001", 1, 0) + strings.Replace(job, "gemini-embedding-001", "gemini-embedding-2", 1), "line 2: the vectors are of the space gemini-embedding-2 8", exit.Usage},
		{line("c001", 1, 0) + k.vectorLine("", "c002", []float32{1, 2}), "line 2: ", exit.Malformed},
		{`{"space":{"model":"gemini-embedding-001","dim":8,"task_type":"RETRIEVAL_QUERY"}}` + "\n" + line("c001", 1, 0), "line 1: the vectors are of the space gemini-embedding-001 8 RETRIEVAL_QUERY", exit.Usage},
		{`{"space":{"model":"gemini-embedding-001","dim":8}}` + "\n" + line("c001", 1, 0), "line 1: ", exit.Usage},
		{`{"space":{"model":"gemini-embedding-001"}}` + "\n", "line 1: ", exit.Malformed},
		{line("c001", 1, 0) + "{}\n", "line 2: ", exit.Malformed},
	} {
		out, err := k.run(against(), c.in)
		if exit.Code(err) != c.code || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%s%v (%d)", out, err, exit.Code(err))
		}
	}
}

// Nothing is written, not even beside the database.
func TestCheckWritesNothing(t *testing.T) {
	k := sane(t, 150)
	before, err := os.ReadFile(k.DB)
	if err != nil {
		t.Fatal(err)
	}
	k.verdicts(k.check(), "")
	k.verdicts(k.check(func(c *Check) { c.Against = "-" }), k.vectorLine("", "c001", make([]float32, checkDim)))
	after, err := os.ReadFile(k.DB)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the database has changed, %v", err)
	}
	if files, err := os.ReadDir(filepath.Dir(k.DB)); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
}
