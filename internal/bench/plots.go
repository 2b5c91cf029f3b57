package main

import (
	"bytes"
	"fmt"
	"image/color"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// colours are the colours of lines and bars. People who cannot see red can also
// distinguish them.
var colours = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff},
	color.Black,
}

// chart plots a comparison as bars, without the contender that does nothing,
// which is far above the others.
func (b *bench) chart(file, title string, all []*contender) {
	shown := slices.DeleteFunc(slices.Clone(all), func(c *contender) bool { return c.name == "cat" })
	slices.Reverse(shown) // bars are drawn from the bottom up
	p := newPlot(title)
	p.X.Label.Text = "MB/s"
	p.X.Min = 0
	var names []string
	bars := []plotter.Values{make(plotter.Values, len(shown)), make(plotter.Values, len(shown))}
	for i, c := range shown {
		names = append(names, strings.TrimSuffix(c.name, " (2)")+", "+c.cores+" core"+map[string]string{"2": "s"}[c.cores])
		series := 1
		if strings.HasPrefix(c.name, "gbatch-fetch") || strings.HasPrefix(c.name, "to-jsonl") {
			series = 0
		}
		bars[series][i] = c.rate() / 1e6
		p.X.Max = max(p.X.Max, 1.1*bars[series][i])
	}
	for i, values := range bars {
		chart, err := plotter.NewBarChart(values, vg.Points(13))
		if err != nil {
			continue // no contender has a figure
		}
		chart.Horizontal, chart.Color, chart.LineStyle.Width = true, colours[i], 0
		p.Add(chart)
	}
	p.NominalY(names...)
	var labels plotter.XYLabels
	for i, c := range shown {
		labels.XYs = append(labels.XYs, plotter.XY{X: c.rate() / 1e6, Y: float64(i)})
		labels.Labels = append(labels.Labels, " "+num(c.rate()/1e6))
	}
	if l, err := plotter.NewLabels(labels); err == nil {
		l.Offset.Y = -vg.Points(4)
		p.Add(l)
	}
	b.save(p, title, file, vg.Points(90+22*float64(len(shown))))
}

func newPlot(title string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	p := plot.New()
	p.Title.Text = title
	p.Title.Padding = vg.Points(8)
	p.BackgroundColor = color.White
	return p
}

// linePlots plots how the time grows with the chunks, and the cost of a vector
// as the table grows.
func (b *bench) linePlots(points []*point, sum []time.Duration) {
	if len(points) > 1 {
		title := "The whole pipe, without the emulator's time"
		p := newPlot(title)
		p.X.Label.Text, p.Y.Label.Text = "chunks", "seconds"
		p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
		p.X.Tick.Marker, p.Y.Tick.Marker = decades{}, decades{}
		p.Legend.Left, p.Legend.Top = true, true
		i := 0
		for _, name := range append(slices.Clone(stages), "the pipe") {
			var line plotter.XYs
			for j, point := range points {
				y := point.stages[name].alone()
				if name == "the pipe" {
					y = sum[j]
				}
				line = append(line, plotter.XY{X: float64(point.n), Y: max(y.Seconds(), 0.001)})
			}
			if name != "gbatch-wait" { // gbatch-wait only waits for the emulator
				add(p, name, line, i)
				i++
			}
		}
		p.Add(plotter.NewGrid())
		b.save(p, title, "bench-line.svg", vg.Points(360))
	}
	last := points[len(points)-1]
	if len(last.grown) < 3 {
		return
	}
	title := "vectors-apply: what a vector costs as the table grows"
	p := newPlot(title)
	p.X.Label.Text, p.Y.Label.Text, p.Y.Min = "rows in the table", "µs a vector of 768", 0
	var line plotter.XYs
	for _, g := range last.grown {
		line = append(line, plotter.XY{X: float64(g.rows), Y: float64(g.vector.Nanoseconds()) / 1e3})
		p.Y.Max = max(p.Y.Max, 1.2*line[len(line)-1].Y)
	}
	add(p, "", line, 0)
	p.Add(plotter.NewGrid())
	b.save(p, title, "bench-apply.svg", vg.Points(260))
}

func add(p *plot.Plot, name string, line plotter.XYs, i int) {
	l, s, err := plotter.NewLinePoints(line)
	if err != nil {
		return
	}
	l.Color, s.Color = colours[i%len(colours)], colours[i%len(colours)]
	l.Width = vg.Points(1.5)
	p.Add(l, s)
	if name != "" {
		p.Legend.Add(name, l, s)
	}
}

// decades puts marks at the powers of ten.
type decades struct{}

func (decades) Ticks(low, high float64) (ticks []plot.Tick) {
	for x := 0.001; x <= high*1.0001; x *= 10 {
		for k := 1.0; k < 10; k++ {
			if v := k * x; v >= low*0.9999 && v <= high*1.0001 {
				t := plot.Tick{Value: v}
				if k == 1 {
					t.Label = fmt.Sprintf("%.3g", x)
					if x >= 1000 {
						t.Label = count(int(x + 0.5))
					}
				}
				ticks = append(ticks, t)
			}
		}
	}
	return ticks
}

// save writes a plot for the report.
func (b *bench) save(p *plot.Plot, title, file string, height vg.Length) {
	const width = 640
	c := vgsvg.NewWith(vgsvg.UseWH(vg.Points(width), height))
	p.Draw(draw.Crop(draw.New(c), 8, -12, 6, -6))
	var svg bytes.Buffer
	if _, err := c.WriteTo(&svg); err != nil {
		say("%s was not drawn: %v", file, err)
		return
	}
	if !strings.HasSuffix(file, ".svg") {
		file += ".svg"
	}
	// A reader without this font uses a similar one.
	text := strings.ReplaceAll(svg.String(), "font-family:Liberation Sans", "font-family:'Liberation Sans',Arial,sans-serif")
	b.report.plot(title, file, []byte(text))
}
