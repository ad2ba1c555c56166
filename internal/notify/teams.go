package notify

// mostTeams bounds a message to Teams, in bytes of JSON. Teams takes 28 KB, with what
// the workflow puts around the card.
// https://learn.microsoft.com/en-us/microsoftteams/limits-specifications-teams
const mostTeams = 20 << 10

// teamsMessage is what a workflow of Teams takes that begins when a webhook request
// is received: a message with an Adaptive Card.
// https://support.microsoft.com/en-us/office/create-incoming-webhooks-with-workflows-for-microsoft-teams-8ae491c7-0394-4861-ba59-055e33f75498
// https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
type teamsMessage struct {
	Type        string            `json:"type"`
	Attachments []teamsAttachment `json:"attachments"`
}

type teamsAttachment struct {
	ContentType string       `json:"contentType"`
	Content     adaptiveCard `json:"content"`
}

// adaptiveCard is made of nothing but RichTextBlocks: their text has no Markdown, so
// that nothing in it can be a link or a mention.
// https://adaptivecards.io/explorer/RichTextBlock.html
type adaptiveCard struct {
	Schema  string          `json:"$schema"`
	Type    string          `json:"type"`
	Version string          `json:"version"`
	Body    []richTextBlock `json:"body"`
	Teams   teamsWidth      `json:"msteams"`
}

type teamsWidth struct {
	Width string `json:"width"`
}

type richTextBlock struct {
	Type      string    `json:"type"`
	Spacing   string    `json:"spacing,omitempty"`
	Separator bool      `json:"separator,omitempty"`
	Inlines   []textRun `json:"inlines"`
}

type textRun struct {
	Type         string   `json:"type"`
	Text         string   `json:"text"`
	Size         string   `json:"size,omitempty"`
	Weight       string   `json:"weight,omitempty"`
	Color        string   `json:"color,omitempty"`
	SelectAction *openURL `json:"selectAction,omitempty"`
}

type openURL struct {
	Type string `json:"type"`
	URL  string `json:"url"`
}

func teams(n *notification) []byte {
	d := compose(n, func(d *digest) bool { return len(encode(teamsCard(d))) <= mostTeams })
	return encode(teamsCard(d))
}

func teamsCard(d *digest) teamsMessage {
	title := textRun{Size: "medium", Weight: "bolder", Color: "attention"}
	if d.resolved {
		title.Color = "good"
	}
	body := []richTextBlock{richText(d.title, title)}
	for _, e := range d.entries {
		summary := richText(e.summary, textRun{Weight: "bolder"})
		summary.Separator = true
		body = append(body, summary)
		for _, line := range e.details {
			block := richText(line, textRun{})
			block.Spacing = "none"
			body = append(body, block)
		}
	}
	for _, line := range []string{d.rest(), d.page} {
		if line != "" {
			body = append(body, richText(line, textRun{}))
		}
	}
	return teamsMessage{Type: "message", Attachments: []teamsAttachment{{
		ContentType: "application/vnd.microsoft.card.adaptive",
		Content: adaptiveCard{
			Schema: "http://adaptivecards.io/schemas/adaptive-card.json", Type: "AdaptiveCard", Version: "1.2",
			Body: body, Teams: teamsWidth{Width: "Full"},
		},
	}}}
}

// richText is a line in the style of a run. Its links are runs that can be clicked.
func richText(text string, style textRun) richTextBlock {
	block := richTextBlock{Type: "RichTextBlock"}
	run := func(text string, action *openURL) string {
		if text != "" {
			r := style
			r.Type, r.Text, r.SelectAction = "TextRun", text, action
			block.Inlines = append(block.Inlines, r)
		}
		return ""
	}
	aroundLinks(text,
		func(text string) string { return run(text, nil) },
		func(link string) string { return run(link, &openURL{Type: "Action.OpenUrl", URL: link}) })
	return block
}
