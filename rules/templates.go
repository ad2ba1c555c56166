package rules

// maxTemplates is how long the templates of a file may be together, in bytes: each is
// tried on several events, call by call.
const maxTemplates = 64 << 10

// readOnce is what came of reading a template: itself, or what is wrong with it.
type readOnce[T any] struct {
	template T
	slips    []slip
}

// once reads a template. One that stands in the file several times is read once.
func once[T any](p *parser, known map[string]readOnce[T], text string, read func(text string) (T, []slip)) (T, []slip) {
	r, ok := known[text]
	if !ok {
		const least = 64 // to try one takes a while however short it is
		if len(text) <= maxMessage {
			p.templateText += max(len(text), least)
		}
		if p.templateText > maxTemplates {
			var none T
			return none, []slip{{0, "the templates of this file are longer than 64 KiB together, each counted once: write fewer or shorter ones"}}
		}
		r.template, r.slips = read(text)
		known[text] = r
	}
	return r.template, r.slips
}
