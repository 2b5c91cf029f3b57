// Package board draws what chunks-status reports as a page of HTML. Only
// chunks-status is linked with it, because the plots need fonts of 2 MB.
package board

import (
	"bytes"
	"context"
	"fmt"
	"html"
	"image/color"
	"io"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

// Status is [store.Status], which can also write its report as a page.
type Status struct {
	store.Status `embed:""`
	HTML         string `name:"html" placeholder:"FILE" help:"Also write a page with plots to a file."`
}

// sample is about how many vectors are measured.
const sample = 20_000

// Run is [store.Status.Run].
func (s *Status) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	if s.HTML != "" {
		s.Sample = sample
		s.Also = func(r *store.Report) error {
			page, err := Page(r)
			if err != nil {
				return err
			}
			return cli.Replace(s.HTML, page)
		}
	}
	return s.Status.Run(ctx, in, out)
}

// Page returns a report as HTML that is XML too. It has no script, and loads
// nothing.
func Page(r *store.Report) ([]byte, error) {
	var b bytes.Buffer
	title := html.EscapeString(fmt.Sprintf("%s: %s", r.DB, r.Table))
	fmt.Fprintf(&b, `<!DOCTYPE html>
<html lang="en" xmlns="http://www.w3.org/1999/xhtml">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>%s</title>
<style>body { font: 15px sans-serif; max-width: 50em; margin: 2em auto } pre { overflow-x: auto } svg { max-width: 100%%; height: auto }</style>
</head>
<body>
<h1>%[1]s</h1>
<p>%s</p>
<pre>%s</pre>
`, title, r.At.Format("2006-01-02 15:04 UTC"), html.EscapeString(r.Text(100)))
	for _, draw := range []func(*store.Report) (*plot.Plot, error){statuses, durations, days, norms} {
		p, err := draw(r)
		if err != nil {
			return nil, err
		}
		if p == nil {
			continue
		}
		fmt.Fprintf(&b, "<h2>%s</h2>\n", html.EscapeString(p.Title.Text))
		b.Write(svg(p))
	}
	b.WriteString("</body>\n</html>\n")
	return b.Bytes(), nil
}

// statuses plots how many chunks have each status.
func statuses(r *store.Report) (*plot.Plot, error) {
	var values plotter.Values
	var names []string
	for i := range r.Counts {
		n := r.Counts[len(r.Counts)-1-i] // bars are drawn from the bottom up
		values, names = append(values, float64(n.Chunks)), append(names, n.Status)
	}
	p := newPlot("Chunks by status", "chunks", "")
	bars, err := plotter.NewBarChart(values, vg.Points(18))
	if err != nil {
		return nil, err
	}
	bars.Horizontal, bars.Color, bars.LineStyle.Width = true, blue, 0
	p.Add(bars)
	p.NominalY(names...)
	return p, nil
}

// durations plots how long the jobs took, by the time at which they were created.
func durations(r *store.Report) (*plot.Plot, error) {
	var points plotter.XYs
	for _, t := range r.Batches {
		sent, err := time.Parse(time.RFC3339, t.SentAt)
		ended, err2 := time.Parse(time.RFC3339, t.EndedAt)
		if err == nil && err2 == nil && !ended.Before(sent) {
			points = append(points, plotter.XY{X: float64(sent.Unix()), Y: ended.Sub(sent).Hours()})
		}
	}
	if len(points) == 0 {
		return nil, nil
	}
	p := newPlot("Duration of the jobs", "created", "hours")
	dots, err := plotter.NewScatter(points)
	if err != nil {
		return nil, err
	}
	dots.Color, dots.Shape = blue, draw.CircleGlyph{}
	p.Add(dots, plotter.NewGrid())
	p.X.Tick.Marker = plot.TimeTicks{Format: "01-02\n15:04"}
	p.Y.Min = 0
	return p, nil
}

// shownDays is how many days the plot of the cost shows.
const shownDays = 60

// days plots what was spent on each day.
func days(r *store.Report) (*plot.Plot, error) {
	shown := r.Days[max(len(r.Days)-shownDays, 0):]
	if len(shown) == 0 {
		return nil, nil
	}
	var values plotter.Values
	var names []string
	for i, d := range shown {
		name := ""
		if i%(len(shown)/8+1) == 0 { // more names would overlap
			name = d.Date
		}
		values, names = append(values, d.USD), append(names, name)
	}
	p := newPlot("Cost by day, of days with batches", "", "US dollars")
	bars, err := plotter.NewBarChart(values, vg.Points(min(400/float64(len(shown)), 40)))
	if err != nil {
		return nil, err
	}
	bars.Color, bars.LineStyle.Width = blue, 0
	p.Add(bars)
	p.NominalX(names...)
	return p, nil
}

// norms plots the lengths of the vectors.
func norms(r *store.Report) (*plot.Plot, error) {
	if len(r.Norms) == 0 {
		return nil, nil
	}
	p := newPlot(fmt.Sprintf("Length of the vectors, in a sample of %d", len(r.Norms)), "length", "vectors")
	bars, err := plotter.NewHist(plotter.Values(r.Norms), 30)
	if err != nil {
		return nil, err
	}
	bars.FillColor, bars.LineStyle.Width = blue, 0
	p.Add(bars)
	return p, nil
}

var blue = color.RGBA{0x00, 0x72, 0xb2, 0xff}

// newPlot returns a plot whose title becomes the heading above it.
func newPlot(title, x, y string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text, p.Y.Label.Text = x, y
	return p
}

// svg draws a plot without its title. The result is an element of HTML.
func svg(p *plot.Plot) []byte {
	p.Title.Text = ""
	c := vgsvg.NewWith(vgsvg.UseWH(vg.Points(560), vg.Points(200)))
	p.Draw(draw.Crop(draw.New(c), 4, -12, 4, -8))
	var text bytes.Buffer
	c.WriteTo(&text) // a buffer takes all
	image := text.Bytes()
	image = image[max(bytes.Index(image, []byte("<svg")), 0):]
	return bytes.ReplaceAll(image, []byte("font-family:Liberation Sans"), []byte("font-family:'Liberation Sans',Arial,sans-serif"))
}
