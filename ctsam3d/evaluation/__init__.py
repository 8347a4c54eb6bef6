"""How good masks are: labelled cases in; scores, a report and pictures out."""
