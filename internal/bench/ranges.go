package main

import (
	"fmt"
	"os"
)

// ranges compares an object in Cloud Storage, which gbatch-fetch may read on several
// connections, with the same bytes as a file of the Gemini API, which it reads on one.
func (b *bench) ranges() error {
	data := b.path("predictions")
	if err := b.predictions(data, b.sizes.fetch); err != nil {
		return err
	}
	defer os.Remove(data)
	settle()
	server, err := b.serve(b.two, b.tool("rival"), "serve", b.dir)
	if err != nil {
		return err
	}
	defer server.stop()
	object := func(name string, times, rate int) (*contender, error) {
		lines := times * b.sizes.fetch
		c := &contender{name: name, cores: "2", args: []string{"gbatch-fetch"}, server: server, env: server.env(b.dir, "p"), work: float64(size(data)) * float64(times)}
		c.in = b.path(fmt.Sprintf("object-x%d-r%d.job", times, rate))
		return c, os.WriteFile(c.in, fmt.Appendf(nil, `{"job":"projects/p/locations/r%d/batchPredictionJobs/%d","batch":"b01","state":"SUCCEEDED","model":"gemini-embedding-001","dim":768,"requests":%d}`+"\n", rate, times, lines), 0o600)
	}
	var all []*contender
	for _, speed := range []struct {
		rate, times int
		text        string
	}{{50, 2, "50 MB/s a connection"}, {0, 10, "no limit"}} {
		c, err := object("an object, "+speed.text, speed.times, speed.rate)
		if err != nil {
			return err
		}
		file := *c
		file.name, file.base = "a file, "+speed.text, c.name
		if file.in, err = b.job(fmt.Sprintf("predictions-x%d-r%d", speed.times, speed.rate), speed.times*b.sizes.fetch, 768); err != nil {
			return err
		}
		all = append(all, c, &file)
	}
	if err := b.same([]*contender{{name: "an object", args: all[0].args, in: all[0].in, env: all[0].env}, {name: "a file", args: all[1].args, in: all[1].in, env: all[1].env}}, `{"job"`); err != nil {
		return err
	}
	if err := b.race("ranges", all); err != nil {
		return err
	}
	b.contest("gbatch-fetch: ranges against one stream", fmt.Sprintf("Results of Vertex AI: each of the lines repeats its request, and has about %d bytes. An object is read on one connection, and on six as soon as that gives less than 100 MB/s. A file of the Gemini API with the same bytes is read on one connection. The server uses the same two cores.", size(data)/int64(b.sizes.fetch)), "MB/s", 1e6, all)
	b.figures["ranges.50"], b.figures["ranges.0"] = all[0].times(all[1]), all[2].times(all[3])

	t := b.report.table("gbatch-fetch: a large object", "From the same server, on one connection and on six.", "connections", "result", "seconds", "MB/s", "CPU s", "server's CPU s", "peak MB", "of its own")
	for _, speed := range []struct {
		rate int
		text string
	}{{0, "one, without a limit"}, {90, "six of 90 MB/s"}} {
		c, err := object(speed.text, int((b.sizes.ranges+size(data)-1)/size(data)), speed.rate)
		if err != nil {
			return err
		}
		row, err := b.measure(c, nil)
		if err != nil {
			return err
		}
		t.row(speed.text, bytesText(int64(c.work)), seconds(row.wall), num(row.rate/1e6), seconds(row.cpu), seconds(row.server), num(float64(row.rss)/1e6), num(float64(row.own)/1e6))
		b.figures["ranges.memory"] = max(b.figures["ranges.memory"], float64(row.own)/1e6)
	}
	return nil
}
