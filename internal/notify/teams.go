package notify

import "maps"

// mostTeams bounds a message to Teams, in bytes of JSON. Teams takes 28 KB, with what
// the workflow puts around the card.
// https://learn.microsoft.com/en-us/microsoftteams/limits-specifications-teams
const mostTeams = 20 << 10

// object is an object of JSON.
type object = map[string]any

func teams(n *notification) []byte {
	d := compose(n, func(d *digest) bool { return len(encode(teamsCard(d))) <= mostTeams })
	return encode(teamsCard(d))
}

// teamsCard is what a workflow of Teams takes that begins when a webhook request is
// received: a message with an Adaptive Card. The card is made of nothing but
// RichTextBlocks: their text has no Markdown, so that nothing in it can be a link or a
// mention.
// https://support.microsoft.com/en-us/office/create-incoming-webhooks-with-workflows-for-microsoft-teams-8ae491c7-0394-4861-ba59-055e33f75498
// https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
// https://adaptivecards.io/explorer/RichTextBlock.html
func teamsCard(d *digest) object {
	color := "attention"
	if d.resolved {
		color = "good"
	}
	body := []object{richText(d.title, object{"size": "medium", "weight": "bolder", "color": color})}
	for _, e := range d.entries {
		summary := richText(e.summary, object{"weight": "bolder"})
		summary["separator"] = true
		body = append(body, summary)
		for _, line := range e.details {
			block := richText(line, nil)
			block["spacing"] = "none"
			body = append(body, block)
		}
	}
	for _, line := range []string{d.rest(), d.page} {
		if line != "" {
			body = append(body, richText(line, nil))
		}
	}
	return object{"type": "message", "attachments": []object{{
		"contentType": "application/vnd.microsoft.card.adaptive",
		"content": object{
			"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.2",
			"body": body, "msteams": object{"width": "Full"},
		},
	}}}
}

// richText is a line in a style. Its links can be clicked.
func richText(text string, style object) object {
	var inlines []object
	run := func(text string, action object) string {
		if text != "" {
			r := object{"type": "TextRun", "text": text}
			maps.Copy(r, style)
			maps.Copy(r, action)
			inlines = append(inlines, r)
		}
		return ""
	}
	aroundLinks(text,
		func(text string) string { return run(text, nil) },
		func(link string) string {
			return run(link, object{"selectAction": object{"type": "Action.OpenUrl", "url": link}})
		})
	return object{"type": "RichTextBlock", "inlines": inlines}
}
